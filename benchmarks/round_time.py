"""What a round costs beside its work, by stage; and whether it grows with the rounds that are planned, or done.

Runs of tiny rounds of the playground's untrained policy, in this process. The fixed cost is that of rounds with next to
nothing to do: 4 prompts, one step of 4 pairs, an evaluation on 4 prompts and 4 pairs. For growth, rounds of 8 prompts,
2 steps and an evaluation of 8 are compared that stand at the same place; the sets are measured in turns, so that a
noisy machine disturbs all of them alike. CPU seconds of this process are hardly lengthened by others on the machine,
wall-clock seconds are. About ten minutes on one core.

    OMP_NUM_THREADS=1 python benchmarks/round_time.py > benchmarks/results/round_time.md
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import yaml

from align_cli.stages.base import NoProgress

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

RECIPE: dict[str, dict[str, Any]] = {
    "policy": {"model_name_or_path": "model"},
    "data": {"prompts": "playground", "preferences": "playground", "eval_prompts": "playground"},
    "labelers": {"hidden": {"kind": "function", "function": "align_cli.playground:hidden_reward"}},
    "method": {"sources": {"offline": {"mixing": 0.5}, "dpr": {"mixing": 0.5, "gradient": 0.3, "labeler": "hidden"}}},
    "generate": {"prompts_per_round": 8, "max_new_tokens": 8},
    "train": {"steps_per_round": 2, "per_device_train_batch_size": 4, "schedule": "round"},
    "evaluate": {"num_prompts": 8, "scorer": "hidden"},
}
TINY = {
    **RECIPE,
    "data": {**RECIPE["data"], "eval_preferences": "held_out.jsonl"},
    "generate": {"prompts_per_round": 4, "max_new_tokens": 8},
    "train": {"steps_per_round": 1, "per_device_train_batch_size": 4},
    "evaluate": {"num_prompts": 4, "scorer": "hidden"},
}
STAGES = ("generate", "label", "train", "evaluate")
FIRST = 5
"""The first rounds warm up what a process loads once."""


class EnoughError(Exception):
    """So many rounds were wanted."""


class Spent(NamedTuple):
    """What a stage of a round took: seconds, and how often something was made durable."""

    cpu: float
    wall: float
    syncs: int

    @classmethod
    def now(cls) -> Spent:
        """Since the process began."""
        return cls(time.process_time(), time.perf_counter(), Syncs.count)

    def since(self, before: Spent) -> Spent:
        """From then until now."""
        return Spent(self.cpu - before.cpu, self.wall - before.wall, self.syncs - before.syncs)


class Syncs:
    """Counts calls of `os.fsync`."""

    count = 0
    really = staticmethod(os.fsync)

    @classmethod
    def sync(cls, fd: FileDescriptorLike) -> None:
        """Count one, and do it."""
        cls.count += 1
        cls.really(fd)


os.fsync = Syncs.sync


class Clock(NoProgress):
    """Told what a run does; notes when each round begins and what each stage takes, and ends the run after a round."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.begun: dict[int, float] = {}
        self.spent: dict[tuple[int, str], Spent] = {}

    @contextmanager
    def stage(self, round_number: int, stage: str) -> Iterator[Clock]:
        """A stage begins."""
        self.begun.setdefault(round_number, time.process_time())
        if round_number > self.last:
            raise EnoughError
        before = Spent.now()
        yield self
        self.spent[round_number, stage] = Spent.now().since(before)

    def note(self, text: str) -> None:
        """Nothing happens."""

    def evaluated(self, evaluation: object) -> None:
        """Nothing happens."""

    def seconds(self) -> list[float]:
        """CPU seconds of every whole round but the first ones of the process."""
        numbers = sorted(self.begun)[FIRST:]
        return [self.begun[number + 1] - self.begun[number] for number in numbers[:-1]]


def main() -> None:
    """Measure, and write tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixed", type=int, default=120, help="rounds of the run whose rounds have nothing to do")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each measurement of growth; 0 for none")
    parser.add_argument("--done", type=int, default=300, help="rounds that are done in the long run")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--of", default="this tree", help="what is measured, for the heading")
    arguments = parser.parse_args()
    if arguments.fixed < FIRST + 10:
        parser.error(f"--fixed is at least {FIRST + 10}: without the first {FIRST}, tenths of them are compared")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        prepare()
        lines = [f"## {arguments.of[0].upper()}{arguments.of[1:]}", ""]
        lines += fixed_costs(run_rounds(TINY, "fixed", arguments.fixed + 1, arguments.fixed))
        if arguments.rounds:
            lines += ["", *growth(measure(arguments.rounds + FIRST, arguments.done, arguments.repetitions))]
    sys.stdout.write("\n".join(lines) + "\n")


def prepare() -> None:
    """A policy, and held-out pairs: few of them, since to score the playground's own is no fixed cost."""
    from align_cli.playground.model import make_policy
    from align_cli.playground.world import eval_preferences

    make_policy(Path("model"), 0)
    rows = eval_preferences("plenty", 0)[:4]
    Path("held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def fixed_costs(clock: Clock) -> list[str]:
    """What each stage takes of rounds that have nothing to do, and whole rounds along the run."""
    lines = ["| stage of a round with next to nothing to do | CPU s | wall s | syncs |", "|---|---:|---:|---:|"]
    numbers = range(FIRST + 1, clock.last + 1)
    for stage in STAGES:
        lines.append(f"| {stage} | {medians([clock.spent[number, stage] for number in numbers])} |")
    rounds = {number: together([clock.spent[number, stage] for stage in STAGES]) for number in numbers}
    lines.append(f"| the round | {medians(list(rounds.values()))} |")
    tenth = len(numbers) // 10
    for part in (numbers[:tenth], numbers[-tenth:]):
        lines.append(f"| rounds {part[0]} to {part[-1]} | {medians([rounds[number] for number in part])} |")
    return lines


def together(spent: list[Spent]) -> Spent:
    """The sum of each figure."""
    return Spent(*(sum(column) for column in zip(*spent, strict=True)))


def medians(spent: list[Spent]) -> str:
    """Of each figure, in cells of a table."""
    cpu, wall, syncs = (statistics.median(column) for column in zip(*spent, strict=True))
    return f"{cpu:.3f} | {wall:.3f} | {syncs:.0f}"


def measure(rounds: int, done: int, repetitions: int) -> dict[str, list[float]]:
    """CPU seconds of rounds, by what is planned and what is done."""
    run_rounds(RECIPE, "long", 2000, done)
    run_rounds(RECIPE, "short", 2000, 10)
    measured: dict[str, list[float]] = {}
    for _ in range(repetitions):
        for planned in (20, 2000):
            shutil.rmtree("run", ignore_errors=True)
            found = run_rounds(RECIPE, "run", planned, min(rounds, planned - 1)).seconds()
            measured.setdefault(f"{planned} rounds planned, none done", []).extend(found)
        for name, number in (("short", 10), ("long", done)):
            shutil.copytree(name, "copy")
            found = run_rounds(RECIPE, "copy", 2000, number + rounds).seconds()
            measured.setdefault(f"2000 rounds planned, {number} done", []).extend(found)
            shutil.rmtree("copy")
    return measured


def run_rounds(recipe: dict[str, Any], output_dir: str, planned: int, last: int) -> Clock:
    """Go on with a run up to a round; when its rounds began, and what they took."""
    from align_cli.recipe import load_recipe
    from align_cli.run.loop import align_rounds

    Path("recipe.yaml").write_text(yaml.safe_dump({"output_dir": output_dir, "rounds": planned, **recipe}))
    clock = Clock(last)
    try:
        align_rounds(load_recipe("recipe.yaml"), clock)
    except EnoughError:
        sys.stderr.write(f"{output_dir}, {planned} planned: up to round {last}\n")
    return clock


def growth(measured: dict[str, list[float]]) -> list[str]:
    """A Markdown table; ratios to its first row."""
    found = {name: statistics.median(seconds) for name, seconds in measured.items()}
    first = next(iter(found.values()))
    lines = ["| run | rounds measured | CPU s a round, median | ratio |", "|---|---:|---:|---:|"]
    return lines + [
        f"| {name} | {len(measured[name])} | {median:.3f} | {median / first:.2f} |" for name, median in found.items()
    ]


if __name__ == "__main__":
    main()
