"""Does a round's time grow with the rounds that are planned, or with those that are done?

Runs of tiny rounds (8 prompts, 2 steps, an evaluation of 8) of the playground's untrained policy, in this process: a
round's CPU seconds, medians over rounds that stand at the same place. The sets are measured in turns, so that a noisy
machine disturbs all of them alike. About six minutes on one core.

    OMP_NUM_THREADS=1 python benchmarks/round_time.py > benchmarks/results/round_time.md
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import yaml

from align_cli.stages.base import NoProgress

RECIPE = {
    "policy": {"model_name_or_path": "model"},
    "data": {"prompts": "playground", "preferences": "playground", "eval_prompts": "playground"},
    "labelers": {"hidden": {"kind": "function", "function": "align_cli.playground:hidden_reward"}},
    "method": {"sources": {"offline": {"mixing": 0.5}, "dpr": {"mixing": 0.5, "gradient": 0.3, "labeler": "hidden"}}},
    "generate": {"prompts_per_round": 8, "max_new_tokens": 8},
    "train": {"steps_per_round": 2, "per_device_train_batch_size": 4, "schedule": "round"},
    "evaluate": {"num_prompts": 8, "scorer": "hidden"},
}
FIRST = 5
"""The first rounds warm up what a process loads once."""


class EnoughError(Exception):
    """So many rounds were wanted."""


class Clock(NoProgress):
    """Told what a run does; notes the CPU time at which each round begins, and ends the run after a round."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.begun: dict[int, float] = {}

    @contextmanager
    def stage(self, round_number: int, stage: str) -> Iterator[Clock]:
        """A stage begins."""
        self.begun.setdefault(round_number, time.process_time())
        if round_number > self.last:
            raise EnoughError
        yield self

    def note(self, text: str) -> None:
        """Nothing happens."""

    def evaluated(self, evaluation: object) -> None:
        """Nothing happens."""

    def seconds(self) -> list[float]:
        """CPU seconds of every whole round but the first ones of the process."""
        numbers = sorted(self.begun)[FIRST:]
        return [self.begun[number + 1] - self.begun[number] for number in numbers[:-1]]


def main() -> None:
    """Measure, and write a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each measurement")
    parser.add_argument("--done", type=int, default=300, help="rounds that are done in the long run")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        measured = measure(arguments.rounds + FIRST, arguments.done, arguments.repetitions)
    command = f"OMP_NUM_THREADS=1 python benchmarks/round_time.py --rounds {arguments.rounds} --done {arguments.done}"
    report(measured, f"{command} --repetitions {arguments.repetitions}")


def measure(rounds: int, done: int, repetitions: int) -> dict[str, list[float]]:
    """CPU seconds of rounds, by what is planned and what is done."""
    from align_cli.playground.model import make_policy

    make_policy(Path("model"), 0)
    run_rounds("long", 2000, done)
    run_rounds("short", 2000, 10)
    measured: dict[str, list[float]] = {}
    for _ in range(repetitions):
        for planned in (20, 2000):
            shutil.rmtree("run", ignore_errors=True)
            found = run_rounds("run", planned, min(rounds, planned - 1))
            measured.setdefault(f"{planned} rounds planned, none done", []).extend(found)
        for name, number in (("short", 10), ("long", done)):
            shutil.copytree(name, "copy")
            found = run_rounds("copy", 2000, number + rounds)
            measured.setdefault(f"2000 rounds planned, {number} done", []).extend(found)
            shutil.rmtree("copy")
    return measured


def run_rounds(output_dir: str, planned: int, last: int) -> list[float]:
    """Go on with a run up to a round; CPU seconds of the rounds."""
    from align_cli.recipe import load_recipe
    from align_cli.run.loop import align_rounds

    Path("recipe.yaml").write_text(yaml.safe_dump({"output_dir": output_dir, "rounds": planned, **RECIPE}))
    clock = Clock(last)
    try:
        align_rounds(load_recipe("recipe.yaml"), clock)
    except EnoughError:
        sys.stderr.write(f"{output_dir}, {planned} planned: up to round {last}\n")
    return clock.seconds()


def report(measured: dict[str, list[float]], command: str) -> None:
    """A Markdown table; ratios to its first row."""
    medians = {name: statistics.median(seconds) for name, seconds in measured.items()}
    first = next(iter(medians.values()))
    lines = ["# A round's time, by the rounds that are planned and done", "", f"`{command}`", ""]
    lines += ["| run | rounds measured | CPU s a round, median | ratio |", "|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {len(measured[name])} | {median:.3f} | {median / first:.2f} |" for name, median in medians.items()
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
