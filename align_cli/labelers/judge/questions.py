"""What a judge is asked, and what comes back: plain values, nothing is sent here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from align_cli.recipe.sections.labelers.judge import JudgeLabelerSection
from align_cli.servers import UnreadableError


@dataclass(frozen=True)
class Question:
    """One request.

    Args:
        body: of the request.
        vote: which of several answers to it this is.
    """

    body: dict[str, Any]
    vote: int

    @property
    def asked(self) -> dict[str, Any]:
        """All that its answer depends on.

        Not the server's address: the same model at another one is the same judge. Who serves another model by the same
        name gives the labeler another name.
        """
        return {"body": self.body, "vote": self.vote}

    @cached_property
    def key(self) -> str:
        """Stands for all that its answer depends on."""
        return json.dumps(self.asked, sort_keys=True)


class Reply(NamedTuple):
    """What a server says.

    Args:
        text: what the judge wrote; empty where it wrote nothing.
        finish_reason: why it ended, as `stop` or `length`.
        prompt_tokens: as the server counts them; None where it does not say.
        completion_tokens: likewise.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


class Answer(NamedTuple):
    """What became of a question.

    Args:
        value: what the judge says; None where that cannot be read.
        text: in its own words.
        prompt_tokens: what it cost.
        completion_tokens: likewise.
        retries: how often it was asked for again.
    """

    value: float | None
    text: str
    prompt_tokens: int
    completion_tokens: int
    retries: int


def question_of(section: JudgeLabelerSection, messages: list[dict[str, str]], vote: int) -> Question:
    """The request that asks a judge for one vote."""
    body: dict[str, Any] = {"model": section.model, "messages": messages}
    seed = None if section.seed is None else section.seed + vote
    own = {"temperature": section.temperature, "max_tokens": section.max_tokens, "seed": seed}
    body |= {name: value for name, value in own.items() if value is not None}
    return Question({**body, **(section.extra_body or {})}, vote)


def read_reply(data: Any) -> Reply:
    """A chat completion as servers send it.

    Raises:
        UnreadableError: if it is none.
    """
    choices = data.get("choices") if isinstance(data, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        shown = json.dumps(data)[:200]
        raise UnreadableError(f"it has no choices: {shown}")
    message = choices[0].get("message")
    if not isinstance(message, Mapping):
        raise UnreadableError("it has no message")
    text, usage = message.get("content"), data.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    return Reply(
        text if isinstance(text, str) else "",
        str(choices[0].get("finish_reason") or ""),
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
    )


def _count(value: Any) -> int | None:
    """A number of tokens; None for what is none, such as one with four hundred digits."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
