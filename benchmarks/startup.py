"""How long each command takes to answer where no model is at work: its help, and what only reads a run or a recipe.

Every command is a process of its own, as from a shell, on a small run of the playground that is finished. The commands
are measured in turns, so that a noisy machine disturbs all of them alike; CPU seconds (user and system) are hardly
lengthened by others on the machine, wall-clock seconds are. About ten minutes on one core.

    python benchmarks/startup.py > benchmarks/results/startup.md
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

RECIPE = """\
output_dir: run
rounds: 3
policy: {model_name_or_path: playground}
data: {prompts: playground, preferences: playground, eval_prompts: playground}
labelers: {hidden: {kind: function, function: "align_cli.playground:hidden_reward"}}
method: {sources: {offline: {mixing: 0.5}, dpr: {mixing: 0.5, gradient: 0.3, labeler: hidden}}}
generate: {prompts_per_round: 8, max_new_tokens: 8}
train: {steps_per_round: 1, per_device_train_batch_size: 4}
evaluate: {num_prompts: 8, scorer: hidden}
"""
COMMANDS = ("train", "generate", "label", "evaluate", "reward", "check", "data", "status", "export", "chat")
LIGHT = (
    "--help",
    *(f"{command} --help" for command in COMMANDS),
    "status run",
    "status run --json",
    "check recipe.yaml --quick",
    "train recipe.yaml",
)
HEAVY = ("check recipe.yaml",)
"""Builds the trainer's arguments, for which torch, transformers and TRL are loaded."""
PROGRAM = "from align_cli.cli.main import main; main()"


class Taken(NamedTuple):
    """What a command took, in seconds."""

    cpu: float
    wall: float


def main() -> None:
    """Measure, and write a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--heavy-repetitions", type=int, default=3, help="of what loads torch")
    parser.add_argument("--of", default="this tree", help="what is measured, for the heading")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        Path("recipe.yaml").write_text(RECIPE)
        run("train recipe.yaml")
        taken = {command: [run(command)] for command in (*LIGHT, *HEAVY)}
        for commands, repetitions in ((LIGHT, arguments.repetitions), (HEAVY, arguments.heavy_repetitions)):
            for _ in range(repetitions):
                for command in commands:
                    taken[command].append(run(command))
    report({command: found[1:] for command, found in taken.items()}, arguments.of)


def run(command: str) -> Taken:
    """Run `align COMMAND` once."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command.split()], capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"align {command}: {done.stderr}")
    return Taken(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def report(taken: dict[str, list[Taken]], of: str) -> None:
    """A Markdown table: medians, with the least and the most."""
    lines = [f"## {of[0].upper()}{of[1:]}", "", "| `align` | processes | CPU s | wall s |", "|---|---:|---:|---:|"]
    for command, found in taken.items():
        cpu, wall = (spread([getattr(one, name) for one in found]) for name in Taken._fields)
        lines.append(f"| `{command}` | {len(found)} | {cpu} | {wall} |")
    sys.stdout.write("\n".join(lines) + "\n")


def spread(seconds: Sequence[float]) -> str:
    """A median, and the least and the most."""
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
