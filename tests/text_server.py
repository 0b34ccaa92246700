"""A server of text on loopback that samples a real model, as vLLM would, and that can go wrong in every way.

with TextServer(folder) as server: ...                 # keeps to every word of a request
with TextServer(folder, wrong=no_echo) as server: ...  # what it says is changed before it goes out

python tests/text_server.py FOLDER --port 8000         # the same as a process, for whoever starts servers
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

from loopback import Body, Handler, Loopback

PINNED = ("generation_config", "max_tokens", "model", "prompt", "seed", "temperature", "top_p")
"""What a server takes that takes text alone, as `transformers serve` does."""


_SAMPLING = threading.Lock()
"""Servers share models, and each is asked by one at a time."""


@cache
def _loaded(folder: Path, written: int) -> Any:
    """The model of a folder, which all servers of it share."""
    from align_cli.models.load import load_policy

    return load_policy(folder)


@dataclass
class TextServer(Loopback):
    """The server, for the time of a `with` block.

    Args:
        folder: of the model.
        wrong: changes an answer's body before it goes out, given the request's; what is no mapping goes out as text.
        faults: what goes wrong, by the number of the request for text, from 1; 0 for all others.
        name: of the model.
        takes: `ids`, or `text` alone as `transformers serve`, which gives none either.
        sampling: what it samples by, whatever it is asked.
        adapters: how it loads adapters: as `vllm` or `sglang` does, or not at all.
        reloads: whether it loads other weights from a folder.
        longest: the most tokens of prompt and response that it says it reads.
        seconds: how long an answer takes.
        port: where it listens; 0 for a free one.
    """

    folder: Path
    wrong: Callable[[Body, Body], Any] = lambda body, answer: answer
    faults: Mapping[int, str] = field(default_factory=dict)
    name: str = "policy"
    takes: str = "ids"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    adapters: str = ""
    reloads: bool = False
    longest: int | None = None
    seconds: float = 0.0
    port: int = 0
    on_request: Callable[[int], None] = lambda number: None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.told: list[tuple[str, Body]] = []
        self.num_listed = 0
        self._policies: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.policy(self.name)
        return super().__enter__()

    def handler(self) -> type[Handler]:
        return _Handler

    @property
    def url(self) -> str:
        """Its address, as one of `base_urls`."""
        return f"{self.root}/v1"

    def policy(self, name: str) -> Any:
        """The model of this name."""
        from align_cli.models.load import load_policy

        if name == self.name and name not in self._policies:
            self._policies[name] = _loaded(self.folder, (self.folder / "model.safetensors").stat().st_mtime_ns)
        if self.takes == "text" and name not in self._policies and Path(name).is_dir():
            self._policies[name] = load_policy(name)
        return self._policies[name]

    def load(self, path: str, body: Body) -> tuple[int, Any]:
        """Change what it has; status and answer."""
        from align_cli.models.load import load_policy
        from align_cli.models.portable import load_adapter

        sign = {"vllm": "/v1/", "sglang": "/"}.get(self.adapters)
        if sign is not None and path == f"{sign}load_lora_adapter":
            if not Path(body["lora_path"]).is_dir():
                return 404, {"error": {"message": f"Loading lora {body['lora_name']} failed: No adapter found"}}
            name = body["lora_name"] if self.adapters == "vllm" else f"{self.name}:{body['lora_name']}"
            self._policies[name] = load_adapter(Path(body["lora_path"]))
            return 200, "Success: it is loaded" if self.adapters == "vllm" else {"success": True}
        if sign is not None and path == f"{sign}unload_lora_adapter":
            name = body["lora_name"] if self.adapters == "vllm" else f"{self.name}:{body['lora_name']}"
            if self._policies.pop(name, None) is None:
                return 404, {"error": {"message": "there is no such adapter"}}
            return 200, "Success: it is removed" if self.adapters == "vllm" else {"success": True}
        if self.reloads and path == "/update_weights_from_disk":
            self._policies[self.name] = load_policy(body["model_path"])
            return 200, {"success": True, "message": "Succeeded to update model weights."}
        return 404, {"detail": "Not Found"}

    def models(self) -> Body:
        """What it names."""
        listed = [self.name] if self.takes != "text" else []
        adapters = [name for name in self._policies if name != self.name and self.takes != "text"]
        base = {"object": "model", "max_model_len": self.longest, "root": str(self.folder)}
        data = [{"id": name, **base} for name in listed]
        return {"object": "list", "data": data + [{"id": one, "parent": self.name, **base} for one in adapters]}

    def answer(self, body: Body) -> tuple[int, Any]:
        """What it samples; status and body."""
        from align_cli.engines.base import Request, SamplingSettings

        if body["model"] not in self._policies and not (self.takes == "text" and Path(body["model"]).is_dir()):
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        policy = self.policy(body["model"])
        if self.takes == "text":
            if unexpected := sorted(body.keys() - set(PINNED)):
                return 422, {"detail": f"Unexpected fields in the request: {unexpected}"}
            body = {**body, "top_k": json.loads(body["generation_config"])["top_k"]}
        ids = body["prompt"] if self.takes == "ids" else policy.tokenizer(body["prompt"])["input_ids"]
        asked = {"temperature": body["temperature"], "top_k": max(body.get("top_k", 0), 0), "top_p": body["top_p"]}
        settings = SamplingSettings(**{**asked, **self.sampling}, max_new_tokens=body["max_tokens"])
        requests = [Request(ids, body["seed"] + number) for number in range(body.get("n", 1))]
        with _SAMPLING:
            samples = [self._said(policy, one, settings) for one in requests]
        choices = [self._choice(policy, number, ids, one) for number, one in enumerate(samples)]
        usage = {"prompt_tokens": len(ids), "completion_tokens": sum(len(one.token_ids) for one in samples)}
        return 200, {"object": "text_completion", "model": body["model"], "choices": choices, "usage": usage}

    def _said(self, policy: Any, request: Any, settings: Any) -> Any:
        """Sampled by itself, what a policy says depends on nothing else: it is sampled once."""
        from align_cli.engines.in_process import TransformersEngine

        said = vars(policy).setdefault("said", {})
        asked = (tuple(request.prompt_ids), request.seed, settings)
        if asked not in said:
            ((_, said[asked]),) = next(TransformersEngine(1).generate(policy, [request], settings))
        return said[asked]

    def _choice(self, policy: Any, number: int, prompt_ids: list[int], sample: Any) -> Body:
        text = policy.tokenizer.decode([*prompt_ids, *sample.token_ids], skip_special_tokens=True)
        text = text.removeprefix(policy.tokenizer.decode(prompt_ids, skip_special_tokens=True))
        choice = {"index": number, "text": text, "finish_reason": sample.finish_reason}
        if self.takes == "text":
            return choice
        tokens = [f"token_id:{one}" for one in sample.token_ids]
        logprobs = {"tokens": tokens, "token_logprobs": sample.logps}
        return {**choice, "logprobs": logprobs, "token_ids": sample.token_ids, "prompt_token_ids": prompt_ids}


class _Handler(Handler):
    of: TextServer

    def handle(self) -> None:
        """Who asked may be killed."""
        with suppress(ConnectionResetError, json.JSONDecodeError):
            super().handle()

    def get(self) -> None:
        if self.path == "/health":
            self.send(200, {})
        elif self.path == "/v1/models":
            self.of.num_listed += 1
            self.send(200, self.of.models())
        else:
            self.send(404, {"detail": "Not Found"})

    def post(self, body: Body) -> None:
        if self.path == "/tokenize" and self.of.takes == "ids":
            ids = self.of.policy(self.of.name).tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
            self.send(200, {"tokens": self.of.wrong(body, {"tokens": ids})["tokens"]})
            return
        if self.path != "/v1/completions":
            self.of.told.append((self.path, body))
            self.send(*self.of.load(self.path, body))
            return
        number = self.of.came(body)
        try:
            self.of.on_request(number)
            time.sleep(self.of.seconds)
            self._complete(body, self.of.faults.get(number, self.of.faults.get(0, "")))
        finally:
            self.of.went()

    def _complete(self, body: Body, fault: str) -> None:
        if fault == "html":
            self.send(200, "<html><body>502 Bad Gateway</body></html>")
        elif not self.fail(fault, {"retry-after": "0.1"} if fault[:3] == "429" else {}):
            status, answer = self.of.answer(body)
            self.send(status, self.of.wrong(body, answer) if status == 200 else answer, half=fault == "half")


def main() -> None:
    """Serve until somebody ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--takes", default="ids")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--reloads", action="store_true", help="load other weights from a folder")
    parser.add_argument("--name", help="of the model; its folder by default")
    parser.add_argument("--child", action="store_true", help="start a child that outlives whoever is asked to end")
    parser.add_argument("--pids", type=Path, help="the numbers of its processes go there")
    parser.add_argument("--dies-after", type=int, default=0, help="requests for text")
    options = parser.parse_args()
    pids = [os.getpid()]
    if options.child:
        deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        pids.append(subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True).pid)
    if options.pids:
        with options.pids.open("a") as file:
            file.write("".join(f"{pid}\n" for pid in pids))

    def die(number: int) -> None:
        if number == options.dies_after:
            os._exit(3)

    made = TextServer(
        options.folder, name=options.name or str(options.folder), takes=options.takes, seconds=options.seconds,
        port=options.port, reloads=options.reloads, on_request=die,
    )  # fmt: skip
    with made:
        sys.stdout.write(f"listening at {made.root}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
