"""How near `align plan --measure` comes: what a run took over what was told of it, for time, disk and peak memory.

Each repetition measures and then runs, in turns for two recipes: the quickstart as it is, and recipes/smollm2.yaml with
fewer prompts and steps. A run is `align train` from the start of its process to its end. About a quarter of an hour
on one quiet core; with others at work on it, time says what these did in between.

    make smollm2
    OMP_NUM_THREADS=1 python benchmarks/plan.py --data FOLDER > benchmarks/results/plan.md

FOLDER is that of benchmarks/smollm2.py; without it the quickstart alone is run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ALIGN = [sys.executable, "-c", "from align_cli.cli.main import main; main()"]
ALPACA, PAIRS = "llamafactory/alpaca_en_demo.json.gz", "rasbt/instruction-data-with-preference.json.gz"
LEXICON = "models/easy_words.txt"
SMALLER = {
    "rounds": 2,
    "generate.prompts_per_round": 52,
    "train.steps_per_round": 8,
    "evaluate.num_prompts": 104,
    "num_threads": 1,
}
COMMAND = "OMP_NUM_THREADS=1 python benchmarks/plan.py --data FOLDER"
FIGURES = ("seconds", "disk", "memory")


class Repetition(NamedTuple):
    """Each figure as it was told and as a run took it, and the seconds that telling took."""

    told: Mapping[str, float]
    took: Mapping[str, float]
    spent: float


def main() -> None:
    """Measure and run, and write a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="public data, for SmolLM2")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cases = {"quickstart": ["recipes/quickstart.yaml"]}
        if options.data is not None:
            cases["SmolLM2-135M"] = smollm2(options.data, Path(scratch))
        found: dict[str, list[Repetition]] = {name: [] for name in cases}
        for repetition in range(options.repetitions):
            for name, words in cases.items():
                folder = Path(scratch) / f"{name}-{repetition}"
                begun = time.monotonic()
                told = plan(words, folder)
                spent = time.monotonic() - begun
                took = run(words, folder)
                found[name].append(Repetition(told, took, spent))
                sys.stderr.write(f"{name} {repetition}: told {told}, took {took}\n")
    sys.stdout.write(table(found))


def smollm2(data: Path, scratch: Path) -> list[str]:
    """The recipe with its data, and smaller numbers."""
    pairs = scratch / "plain.jsonl"
    command = [sys.executable, "recipes/rewards/plain_words.py", str(data / PAIRS), LEXICON]
    pairs.write_bytes(subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE).stdout)
    changed = {
        **SMALLER,
        "data.prompts": f"{data / ALPACA}[:600]",
        "data.eval_prompts": f"{data / ALPACA}[600:]",
        "data.preferences": pairs,
    }
    return ["recipes/smollm2.yaml", *(f"{key}={value}" for key, value in changed.items())]


def plan(words: Sequence[str], folder: Path) -> Mapping[str, float]:
    """What `align plan --measure` tells of all."""
    command = [*ALIGN, "plan", *words, f"output_dir={folder}", "--measure", "--json", "--quiet"]
    done = subprocess.run(command, check=True, cwd=ROOT, env=environment(), stdout=subprocess.PIPE)
    total = json.loads(done.stdout)["total"]
    return {name: total[name] for name in FIGURES}


def run(words: Sequence[str], folder: Path) -> Mapping[str, float]:
    """What `align train` takes."""
    begun = time.monotonic()
    command = [*ALIGN, "train", *words, f"output_dir={folder}"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=quiet, stderr=quiet)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun
    if status:
        raise RuntimeError(f"align train ended with {status}: {words}")
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"seconds": seconds, "disk": disk, "memory": usage.ru_maxrss * 1024}


def environment() -> dict[str, str]:
    """Nothing is fetched."""
    return {**os.environ, "HF_HUB_OFFLINE": "1"}


def table(found: Mapping[str, Sequence[Repetition]]) -> str:
    """A row a recipe and figure."""
    lines = [
        f"`{COMMAND}`, a core to itself while the other one was at work.",
        "",
        "| recipe | figure | told, median | took, median | took over told, each | median |",
        "|---|---|---|---|---|---|",
    ]
    shown = {"seconds": (1, "s"), "disk": (1e6, "MB"), "memory": (1e6, "MB")}
    for name, repetitions in found.items():
        for figure, (scale, unit) in shown.items():
            told = [one.told[figure] / scale for one in repetitions]
            took = [one.took[figure] / scale for one in repetitions]
            ratios = [one / other for one, other in zip(took, told, strict=True)]
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            row = [f"{median(told):.1f} {unit}", f"{median(took):.1f} {unit}", each, f"{median(ratios):.2f}"]
            lines.append(f"| {name} | {figure} | {' | '.join(row)} |")
    spent = (f"{name} {median(one.spent for one in repetitions):.0f} s" for name, repetitions in found.items())
    return "\n".join([*lines, "", f"To measure took, in the median: {', '.join(spent)}."]) + "\n"


if __name__ == "__main__":
    main()
