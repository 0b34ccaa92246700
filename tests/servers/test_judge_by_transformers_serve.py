"""A judge that is a real model behind a real server, `transformers serve`, with a proxy before it that goes wrong.

It judges what SmolLM2 itself has answered to a few requests. `make test-servers` runs it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_server import IN_PLACE, JudgeServer, forwarding
from warm_children import MAIN

from align_cli.artifacts.answers import Answers

pytestmark = pytest.mark.servers

MODEL = Path(__file__).parent.parent.parent / "models" / "smollm2-135m-instruct"
SECONDS_TO_START, SECONDS_TO_LABEL = 180, 300
ALIGN = [sys.executable, "-c", MAIN]
PROMPTS = [
    "Name three primary colours.",
    "Why is the sky blue?",
    "Write one sentence about rain.",
    "Give a synonym for happy.",
    "What is two plus two?",
    "How do bees make honey?",
]
TEMPLATE = """answer: \\b([AB])\\b
first: A
second: B
--- user
Question: {prompt}

Reply A: {first}

Reply B: {second}

Which reply is better? Answer with one letter, A or B.
"""
SCORE_TEMPLATE = """answer: \\b(\\d+)\\b
lowest: 1
highest: 10
--- user
Question: {prompt}

Reply: {completion}

How good is the reply, from 1 to 10? Answer with one number.
"""
FAULTS = dict(
    enumerate(
        ["429", "500", "nonsense", "half", "empty", "third", "nothing", "drop", "half json", "429 for a second"], 2
    )
)


def chat(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.fixture(scope="session")
def real_server() -> Iterator[str]:
    """The address of `transformers serve` with SmolLM2, for the time of the tests."""
    assert MODEL.is_dir(), "make smollm2 makes the model"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", MODEL, "--host", "127.0.0.1", "--port", port]
    server = subprocess.Popen([*map(str, command), "--device", "cpu"], stdout=subprocess.DEVNULL)
    root = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + SECONDS_TO_START
        while not is_up(f"{root}/health"):
            assert server.poll() is None and time.monotonic() < until, "transformers serve did not start"
            time.sleep(0.5)
        yield root
    finally:
        server.terminate()
        server.wait(30)


def is_up(address: str) -> bool:
    with suppress(OSError):
        return urllib.request.urlopen(address, timeout=5).status == 200
    return False


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with completions that SmolLM2 has sampled, two of each prompt."""
    folder = tmp_path_factory.mktemp("sampled")
    write_recipe(folder, {"kind": "function", "function": "align_cli.playground:hidden_reward"})
    done = align(folder, "generate", "recipe.yaml", "-o", "completions.jsonl")
    assert done.returncode == 0, done.stderr
    return folder / "completions.jsonl"


def write_recipe(folder: Path, labeler: dict[str, Any]) -> None:
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": chat("user", text)}) + "\n" for text in PROMPTS)
    )
    pair = {
        "prompt": chat("user", "Greet me."), "chosen": chat("assistant", "Hello!"), "rejected": chat("assistant", "No"),
    }  # fmt: skip
    (folder / "pairs.jsonl").write_text(f"{json.dumps(pair)}\n" * 2)
    (folder / "judge.txt").write_text(TEMPLATE)
    (folder / "score.txt").write_text(SCORE_TEMPLATE)
    recipe = {
        "output_dir": "run",
        "rounds": 1,
        "num_threads": 1,
        "policy": {"model_name_or_path": str(MODEL), "lora": {"rank": 4}},
        "data": {"prompts": "prompts.jsonl", "preferences": "pairs.jsonl"},
        "labelers": {"j": labeler},
        "method": {"sources": {"offline": {"mixing": 0.5}, "dpr": {"mixing": 0.5, "labeler": "j"}}},
        "generate": {"max_new_tokens": 16, "prompts_per_round": len(PROMPTS)},
        "label": {"ties": "keep"},
        "train": {"steps_per_round": 1, "per_device_train_batch_size": 2},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*ALIGN, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def align(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=SECONDS_TO_LABEL)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def label(folder: Path, sampled: Path) -> list[dict[str, Any]]:
    """The label stage: its preferences."""
    done = align(folder, "label", "recipe.yaml", "-i", str(sampled))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def judge(proxy: JudgeServer, **keys: Any) -> dict[str, Any]:
    defaults = {"kind": "judge", "base_url": proxy.url, "model": str(MODEL), "template": "judge.txt", "max_tokens": 12}
    return {**defaults, "max_unparsable": 1.0, **keys}


def spent_in(folder: Path) -> tuple[int, int]:
    """Tokens of prompts and of completions that the file of answers knows of."""
    rows = Answers(folder / "run" / "answers" / "j.jsonl").rows()
    took = [row["answer"] if "for" in row else row["spent"] for row in rows]
    return (
        sum(one.get("prompt_tokens", 0) for one in took),
        sum(one.get("completion_tokens", 0) for one in took),
    )


def bodies(proxy: JudgeServer) -> list[str]:
    return [json.dumps(one.body, sort_keys=True) for one in proxy.asked]


def test_every_fault_is_met_and_the_tokens_are_those_that_the_server_counted(
    real_server: str, sampled: Path, tmp_path: Path
) -> None:
    with JudgeServer(forwarding(f"{real_server}/v1"), FAULTS) as proxy:
        write_recipe(tmp_path, judge(proxy, concurrency=3))
        assert len(label(tmp_path, sampled)) == len(PROMPTS)
        assert {one.fault for one in proxy.asked} >= set(FAULTS.values())
        assert spent_in(tmp_path) == proxy.tokens()
        met = len(proxy.asked)
        again = label(tmp_path, sampled)
        asked_again = bodies(proxy)[met:]
        without_verdict = [b for b, one in zip(bodies(proxy)[:met], proxy.asked, strict=False) if one.fault in IN_PLACE]
        assert Counter(asked_again) == Counter(without_verdict)
        assert spent_in(tmp_path) == proxy.tokens()
        settled = len(proxy.asked)
        assert label(tmp_path, sampled) == again
        assert len(proxy.asked) == settled
    for pair in again:
        assert pair["verdicts"]["j"] in (0.0, 0.5, 1.0)


def test_a_killed_label_stage_asks_for_nothing_twice_and_its_cost_is_exact(
    real_server: str, sampled: Path, tmp_path: Path
) -> None:
    labelling: list[subprocess.Popen[str]] = []

    def kill_at_the_fifth(number: int, body: dict[str, Any]) -> None:
        if number == 5:
            labelling[0].send_signal(signal.SIGKILL)
            labelling[0].wait()

    with JudgeServer(forwarding(f"{real_server}/v1"), {5: "drop"}, on_request=kill_at_the_fifth) as proxy:
        write_recipe(tmp_path, judge(proxy, concurrency=1))
        labelling.append(start(tmp_path, "label", "recipe.yaml", "-i", str(sampled)))
        labelling[0].communicate(timeout=SECONDS_TO_LABEL)
        assert labelling[0].returncode == -signal.SIGKILL
        assert len(label(tmp_path, sampled)) == len(PROMPTS)
        asked = bodies(proxy)
        assert len(asked) == 2 * len(PROMPTS) + 1
        assert [body for body, times in Counter(asked).items() if times > 1] == [asked[4]]  # which nobody answered
        assert spent_in(tmp_path) == proxy.tokens()


def test_a_real_model_scores(real_server: str, sampled: Path, tmp_path: Path) -> None:
    with JudgeServer(forwarding(f"{real_server}/v1")) as proxy:
        write_recipe(tmp_path, judge(proxy, template="score.txt", concurrency=2))
        pairs = label(tmp_path, sampled)
        assert spent_in(tmp_path) == proxy.tokens()
    scores = [pair[side] for pair in pairs for side in ("chosen_score", "rejected_score")]
    assert any(score is not None and 1 <= score <= 10 for score in scores)
