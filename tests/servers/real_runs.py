"""Runs of SmolLM2 whose responses come from real servers, in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from warm_children import MAIN

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "models" / "smollm2-135m-instruct"
ALIGN = [sys.executable, "-c", MAIN]
NUM_GENERATIONS = 2
SECONDS_TO_RUN = 420
PROMPTS = [
    "Name three primary colours.",
    "Why is the sky blue?",
    "Write one sentence about rain.",
    "Give a synonym for happy.",
    "What is two plus two?",
    "How do bees make honey?",
    "Name a fruit that is red.",
    "What is ice?",
    "Say hello in French.",
    "Who wrote Hamlet?",
]
REWARD = '''"""Shorter is better, and lively words are best."""


def score(prompts, completions, **others):
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [len(set(text.split())) / (1 + len(text)) for text in texts]
'''


def chat(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def write_recipe(folder: Path, server: dict[str, Any], gradient: float = 0.3, **policy: Any) -> None:
    """A recipe of two rounds of `sail-dpr`, with its files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": chat("user", text)} for text in PROMPTS]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair = {"chosen": chat("assistant", "Gladly: here it is."), "rejected": chat("assistant", "No.")}
    (folder / "pairs.jsonl").write_text("".join(json.dumps({**row, **pair}) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)
    recipe = {
        "output_dir": "run",
        "preset": "sail-dpr-as-published",
        "rounds": 2,
        "num_threads": 1,
        "policy": {"model_name_or_path": str(MODEL), **policy},
        "data": {"prompts": "prompts.jsonl", "preferences": "pairs.jsonl"},
        "labelers": {"brief": {"kind": "function", "function": "reward.py:score"}},
        "method": {
            "sources": {
                "offline": {"mixing": 0.5},
                "dpr": {"mixing": 0.5, "gradient": gradient, "labeler": "brief"},
            }
        },
        "generate": {
            "engine": "server",
            "num_generations": NUM_GENERATIONS,
            "max_new_tokens": 20,
            "prompts_per_round": len(PROMPTS),
            "server": server,
        },
        "label": {"ties": "keep"},
        "train": {"steps_per_round": 1, "per_device_train_batch_size": 4, "learning_rate": 1.0e-4},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """`align train`, at work; what it says goes into the folder."""
    with (folder / "said.txt").open("a") as said:
        return subprocess.Popen(
            [*ALIGN, "train", "recipe.yaml", *overrides], cwd=folder, stdout=said, stderr=said, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text()


def finish(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until `align train` is done, and has done what it was to."""
    assert process.wait(SECONDS_TO_RUN) == 0, said(folder)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str], folder: Path) -> Any:
    """What a function gives as soon as it gives something, while align is at work."""
    until = time.monotonic() + SECONDS_TO_RUN
    while not (found := what()):
        assert process.poll() is None and time.monotonic() < until, said(folder)
        time.sleep(0.05)
    return found


def kept(folder: Path, round_number: int) -> dict[int, dict[str, Any]]:
    """What the journal of a round's generation holds so far, by position."""
    path = folder / "run" / "work" / f"{round_number:03d}-generate" / "policy-samples.jsonl"
    if not path.exists():
        return {}
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    rows = [json.loads(line.partition(b" ")[2]) for line in lines]
    return {row["position"]: row["sample"] for row in rows if "sample" in row}


def rows_of(folder: Path, round_number: int, name: str) -> list[dict[str, Any]]:
    path = folder / "run" / "rounds" / f"{round_number:03d}" / name
    return [json.loads(line) for line in path.read_text().splitlines()]


def own_pairs(folder: Path, round_number: int) -> list[dict[str, Any]]:
    """A round's pairs that are not the dataset's."""
    return [pair for pair in rows_of(folder, round_number, "preferences.jsonl") if pair["source"] == "dpr"]


def figures_of(folder: Path, round_number: int) -> dict[str, Any]:
    """What the ledger says of a round's generation by the engine."""
    events = [json.loads(line) for line in (folder / "run" / "ledger.jsonl").read_text().splitlines()]
    wanted = ("finish", round_number, "generate")
    (event,) = [one for one in events if (one["event"], one.get("round"), one.get("stage")) == wanted]
    return dict(event["figures"]["engine"]["policy"])


def servers_below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The keepers' children: a server's first process each."""
    return [server for keeper in psutil.Process(process.pid).children() for server in keeper.children()]


def all_below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return list(psutil.Process(process.pid).children(recursive=True))


def all_gone(processes: list[psutil.Process], seconds: float = 60.0) -> bool:
    """Whether none of these runs any more, some time from now at the latest."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def assert_pairs_are_what_was_sampled(folder: Path) -> None:
    """Every pair of the policy's holds the very ids that the server gave."""
    for number in (1, 2):
        sampled = {
            (row["prompt_index"], row["sample_index"]): (row["prompt_ids"], row["completion_ids"])
            for row in rows_of(folder, number, "completions.jsonl")
        }
        pairs = own_pairs(folder, number)
        assert len(sampled) == len(PROMPTS) * NUM_GENERATIONS
        assert pairs
        for pair in pairs:
            for side in ("chosen", "rejected"):
                ids = pair["prompt_ids"], pair[f"{side}_ids"]
                assert ids == sampled[pair["prompt_index"], pair[f"{side}_index"]]
