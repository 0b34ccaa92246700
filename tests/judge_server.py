"""A judge's server on loopback that counts every request and can go wrong in every way, or a proxy that can.

with JudgeServer(longer_wins, {3: "500"}) as server: ...     # the third request for an answer meets an error
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from loopback import Body, Handler, Loopback

Answering = Callable[[str, Body], tuple[int, Any]]
"""Path and body of a request to status and body of an answer."""

TEMPLATE = """answer: \\[\\[(.*?)\\]\\]
first: A
second: B
tie: C
--- user
{prompt}|{first}|{second}
"""
SCORE_TEMPLATE = """answer: last line
lowest: 0
highest: 100
--- user
{prompt}|{completion}
"""
IN_PLACE = {"nonsense": "Both have their points.", "third": "It is clear.\n[[D]]", "nothing": ""}
"""What a judge says where it says nothing of use, by the fault's name."""
SECONDS_OF_SLOW = 0.6


@dataclass
class Asked:
    """A request that came, and what went out.

    Args:
        path: of the request.
        body: of the request; empty where it has none.
        headers: likewise, by small letters.
        fault: how it went wrong; empty where it did not.
        usage: of an answer that went out whole.
    """

    path: str
    body: Body
    headers: dict[str, str]
    fault: str = ""
    usage: Body | None = None


@dataclass
class JudgeServer(Loopback):
    """The server, for the time of a `with` block.

    Args:
        answering: what it says.
        faults: what goes wrong, by the number of the request for an answer, from 1.
        models: that it names; None where it does not, [500] where it goes wrong over them.
        base: the path that everything stands below.
        on_request: told of each request for an answer, before it is answered.
    """

    answering: Answering
    faults: Mapping[int, str] = field(default_factory=dict)
    models: list[Any] | None = field(default_factory=lambda: ["judge"])
    base: str = "/v1"
    on_request: Callable[[int, Body], None] = lambda number, body: None

    def handler(self) -> type[Handler]:
        return _Handler

    @property
    def url(self) -> str:
        """Its address, as `base_url`."""
        return self.root + self.base

    @property
    def questions(self) -> list[str]:
        """What it was asked, request by request, in the words of the last message."""
        return [one.body["messages"][-1]["content"] for one in self.asked]

    @property
    def answered(self) -> list[Asked]:
        """The requests whose answers went out whole."""
        return [one for one in self.asked if one.usage is not None]

    def tokens(self) -> tuple[int, int]:
        """Of all answers that went out whole: tokens of prompts, and of completions."""
        usages = [one.usage for one in self.answered if one.usage]
        return tuple(sum(usage[name] for usage in usages) for name in ("prompt_tokens", "completion_tokens"))  # type: ignore[return-value]


class _Handler(Handler):
    of: JudgeServer

    def get(self) -> None:
        if self.path == f"{self.of.base}/models" and self.of.models == [500]:
            self.send(500, {"error": {"message": "Internal Server Error"}})
        elif self.path == f"{self.of.base}/models" and self.of.models is not None:
            self.send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.of.models]})
        else:
            self.send(404, {"error": {"message": "there is nothing here"}})

    def post(self, body: Body) -> None:
        if not self.path.startswith(self.of.base):
            self.send(404, {"detail": "Not Found"})
            return
        asked = Asked(self.path.removeprefix(self.of.base), body, {k.lower(): v for k, v in self.headers.items()})
        number = self.of.came(asked)
        try:
            self.of.on_request(number, body)
            asked.fault = self.of.faults.get(number, "")
            self._answer(asked, asked.fault)
        finally:
            self.of.went()

    def _answer(self, asked: Asked, fault: str) -> None:
        if fault == "429 for a second":
            self.send(429, {"error": {"message": "slow down"}}, {"retry-after": "1"})
        elif fault == "empty":
            self.send(200, b"")
        elif not self.fail(fault):
            self._answer_truly(asked, fault)

    def _answer_truly(self, asked: Asked, fault: str) -> None:
        if fault == "slow":
            time.sleep(SECONDS_OF_SLOW)
        status, answer = self.of.answering(asked.path, asked.body)
        if fault in IN_PLACE:
            answer["choices"][0]["message"]["content"] = IN_PLACE[fault]
        data = json.dumps(answer).encode()
        if fault == "half":
            self.send(200, data, half=True)
        elif fault == "drip":
            self._drip(data)
        elif fault == "half json":
            self.send(200, data[: len(data) // 2])
        else:
            self.send(status, data)
            asked.usage = answer.get("usage") if isinstance(answer, dict) and status == 200 else None

    def _drip(self, data: bytes) -> None:
        """An answer that is never silent for long, and never done."""
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        with suppress(OSError):
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(SECONDS_OF_SLOW / 10)


def chat(body: Body, said: str, finish_reason: str = "stop") -> Body:
    """A chat completion; a word is a token."""
    asked = sum(len(message["content"].split()) for message in body["messages"])
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": body["model"],
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": finish_reason},
        ],
        "usage": {"prompt_tokens": asked, "completion_tokens": len(said.split()), "total_tokens": 0},
    }


def longer_wins(path: str, body: Body) -> tuple[int, Body]:
    """A judge that has no bias but one for length; by `TEMPLATE`."""
    _, first, second = body["messages"][-1]["content"].split("|")
    letter = "C" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
    return 200, chat(body, f"One is longer.\n[[{letter}]]")


def first_wins(path: str, body: Body) -> tuple[int, Body]:
    """A judge that looks at the position alone."""
    return 200, chat(body, "[[A]]")


def length_scores(path: str, body: Body) -> tuple[int, Body]:
    """A judge that scores by length; by `SCORE_TEMPLATE`."""
    _, completion = body["messages"][-1]["content"].split("|")
    return 200, chat(body, f"Its length is what counts.\n{len(completion)}")


def forwarding(root: str) -> Answering:
    """What the real server at an address says."""

    def answer(path: str, body: Body) -> tuple[int, Any]:
        request = urllib.request.Request(
            root + path, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    return answer
