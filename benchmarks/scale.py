"""Does memory grow with the rows of a data set, and time faster than they do?

Files of 10 thousand, 100 thousand and a million short rows, of preferences and of prompts, and the playground's
untrained policy. Each start is a process of its own that ends at the first optimizer step of `align train`: the first
on a file that nobody has looked at before, the second on what has not changed since. Peaks are what the process had in
memory at most (VmHWM), seconds are from its beginning, as the clock on the wall has them and as they were spent on a
core. About ten minutes on one core.

    OMP_NUM_THREADS=1 python benchmarks/scale.py > benchmarks/results/scale.md
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

from align_cli.stages.base import NoProgress

ROWS = "rows.jsonl"
TRAIN = {"steps_per_round": 1, "per_device_train_batch_size": 4}
RECIPES: dict[str, dict[str, Any]] = {
    "preferences": {
        "data": {"preferences": ROWS},
        "method": {"sources": {"offline": {"mixing": 1.0}}},
        "train": TRAIN,
    },
    "prompts": {
        "data": {"prompts": ROWS},
        "labelers": {"hidden": {"kind": "function", "function": "align_cli.playground:hidden_reward"}},
        "method": {"sources": {"dpr": {"mixing": 1.0, "labeler": "hidden"}}},
        "generate": {"prompts_per_round": 8, "max_new_tokens": 8},
        "train": TRAIN,
    },
}
STARTS = ("first start", "second start")


class EnoughError(Exception):
    """The first step is done."""


class FirstStep(NoProgress):
    """Told what a run does; ends it at its first optimizer step."""

    def __init__(self) -> None:
        self._is_training = False

    @contextmanager
    def stage(self, round_number: int, stage: str) -> Iterator[FirstStep]:
        """A stage begins."""
        self._is_training = stage == "train"
        yield self

    def advance(self, amount: int = 1) -> None:
        """Something is done."""
        if self._is_training:
            raise EnoughError

    def note(self, text: str) -> None:
        """Nothing happens."""

    def evaluated(self, evaluation: object) -> None:
        """Nothing happens."""


class Cost(NamedTuple):
    """What a start took: seconds from the process's beginning, seconds of a core, and the most memory, in MiB."""

    seconds: float
    core_seconds: float
    mebibytes: float


def main() -> None:
    """Measure, and write tables in Markdown; or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--start", nargs=2, metavar=("KIND", "BEGUN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        kind, begun = arguments.start
        sys.stdout.write(json.dumps(start(kind, float(begun))))
        return
    script = Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        costs = {kind: {num: measure(script, kind, num) for num in arguments.rows} for kind in RECIPES}
    shown = " ".join(map(str, arguments.rows))
    report(costs, f"OMP_NUM_THREADS=1 python benchmarks/scale.py --rows {shown}")


def measure(script: Path, kind: str, num_rows: int) -> dict[str, Cost]:
    """What each start takes with so many rows."""
    from align_cli.playground.model import make_policy

    make_policy(Path("model"), 0)
    write_rows(kind, num_rows)
    costs = {}
    for what in STARTS:
        shutil.rmtree("run", ignore_errors=True)
        command = [sys.executable, str(script), "--start", kind, str(time.monotonic())]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "XDG_CACHE_HOME": str(Path("cache").resolve())}
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        costs[what] = Cost(*json.loads(done.stdout))
        sys.stderr.write(f"{num_rows} {kind}, {what}: {costs[what]}\n")
    shutil.rmtree("cache", ignore_errors=True)
    return costs


def write_rows(kind: str, num_rows: int) -> None:
    """A file of the playground's rows, over and over, each time with another word."""
    from align_cli.playground import world

    pairs = world.preferences(next(iter(world.SETTINGS)), 0) if kind == "preferences" else world.prompts(0)
    with Path(ROWS).open("w") as stream:
        for number, row in enumerate(islice(cycle(pairs), num_rows)):
            stream.write(json.dumps({**row, "prompt": f"{row['prompt']} {number}"}) + "\n")


def start(kind: str, begun: float) -> Sequence[float]:
    """Do what is measured, in this process."""
    from align_cli.recipe import load_recipe
    from align_cli.run.loop import align_rounds

    recipe = {"output_dir": "run", "rounds": 1, "policy": {"model_name_or_path": "model"}, **RECIPES[kind]}
    Path("cache").mkdir(exist_ok=True)
    Path("recipe.yaml").write_text(json.dumps(recipe))
    with suppress(EnoughError):
        align_rounds(load_recipe("recipe.yaml"), FirstStep())
    return time.monotonic() - begun, time.process_time(), peak_mebibytes()


def peak_mebibytes() -> float:
    """The most memory that this process has had."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def report(costs: dict[str, dict[int, dict[str, Cost]]], command: str) -> None:
    """A Markdown table of each kind of file."""
    lines = ["# What a start takes, by the rows of its data", "", f"`{command}`"]
    for kind, by_rows in costs.items():
        lines += [
            "",
            f"## {kind}",
            "",
            f"| rows |{''.join(f' {what}: s | {what}: CPU s | {what}: MiB |' for what in STARTS)}",
        ]
        lines.append(f"|---:|{'---:|---:|---:|' * len(STARTS)}")
        for num_rows, found in by_rows.items():
            cells = "".join(
                f" {it.seconds:.0f} | {it.core_seconds:.1f} | {it.mebibytes:.0f} |" for it in found.values()
            )
            lines.append(f"| {num_rows:,} |{cells}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
