"""Kill small runs at random moments, over and over, and compare what they end in with runs that nobody killed.

Each run is one of the variants of `tests/run/killed_runs.py`. Its process is killed (SIGKILL) after a random time or at
a random write boundary, and run again, until it ends by itself; then every file below `rounds/` must have the bytes of
the uninterrupted run's, and nothing else may be left. Two to five seconds a kill on two cores.

    python benchmarks/crashes.py --kills 300 --seed 0 --state crashes > benchmarks/results/crashes.md

With `--state` what was done is kept there, and the same command goes on with it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "run"))

from forked import Stop, run_align
from killed_runs import VARIANTS, differing_files, make_run, num_artifacts, train

KINDS = {
    "time": ["time"],
    "write boundary": [f"{when}{name}" for name in ("fsync", "replace") for when in ("", "after ")],
    "removal": [f"{when}{name}" for name in ("rmtree", "unlink") for when in ("", "after ")],
    "journal": ["append", "after append", "amid append"],
    "half a checkpoint": ["amid checkpoint"],
    "stage's end": ["manifest", "after manifest", "ledger"],
    "in training": ["step", "warm-up step"],
}
"""What is drawn first, and the moments that it stands for."""

LONGEST_SECONDS = 6.0
"""About as long as a run takes."""

MAX_LAUNCHES = 100
"""A run that does not end after so many goes on for ever."""

Run = dict[str, Any]


def main() -> None:
    """Kill, compare and write a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, help="where runs and progress are kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        state = arguments.state or Path(scratch)
        state.mkdir(parents=True, exist_ok=True)
        runs = kill_runs(state, arguments.kills, arguments.seed)
        report(runs, f"python benchmarks/crashes.py --kills {arguments.kills} --seed {arguments.seed}")


def kill_runs(state: Path, kills: int, seed: int) -> list[Run]:
    """Run after run until there were enough kills; those that are in the progress file are not done again."""
    progress = state / "progress.jsonl"
    runs: list[Run] = [json.loads(line) for line in progress.read_text().splitlines()] if progress.exists() else []
    while sum(len(run["kills"]) for run in runs) < kills:
        run = killed_run(state, random.Random(f"{seed} {len(runs)}"))
        runs.append(run)
        with progress.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(run) + "\n")
        total = sum(len(run["kills"]) for run in runs)
        sys.stderr.write(f"{total} kills, run {len(runs)}: {run}\n")
    return runs


def killed_run(state: Path, rng: random.Random) -> Run:
    """One run, killed until it ends by itself, and what came of it."""
    variant = rng.choice(list(VARIANTS))
    whole = whole_run(state, variant)
    totals = json.loads((whole / "moments.json").read_text())
    folder = state / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    make_run(folder, variant)
    run: Run = {"variant": variant, "kills": [], "resumes": 0, "tracebacks": [], "compared": 0, "differ": []}
    for _ in range(MAX_LAUNCHES):
        kind, stop = random_stop(rng, totals)
        ended = train(folder, stop)
        run["resumes"] += "going on after" in ended.err
        if "Traceback" in ended.err or ended.code > 0:
            run["tracebacks"].append([str(stop), ended.code, ended.err[-2000:]])
            break
        if ended.code == 0:
            run["compared"] = num_artifacts(whole)
            run["differ"] = differing_files(folder, whole)
            break
        run["kills"].append([kind, stop.before, stop.nth, round(stop.seconds, 3)])
    else:
        run["tracebacks"].append(["no end", 0, ""])
    return run


def random_stop(rng: random.Random, totals: dict[str, int]) -> tuple[str, Stop]:
    """A moment: any of a whole run's, or more often an early one, so that a run is killed many times."""
    kind = rng.choice(list(KINDS))
    moment = rng.choice(KINDS[kind])
    share = rng.random() * rng.choice([1, 1 / 4, 1 / 4, 1 / 10])
    if moment == "time":
        return kind, Stop(moment, seconds=share * LONGEST_SECONDS)
    total = totals[moment if moment.startswith("amid ") else moment.removeprefix("after ")]
    return kind, Stop(moment, 1 + int(share * total))


def whole_run(state: Path, variant: str) -> Path:
    """The variant's run that nobody kills; made once."""
    folder = state / "whole" / "-".join(variant.split())
    if not (folder / "moments.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make_run(folder, variant)
        done = run_align("train", "recipe.yaml", cwd=folder, moments=folder / "counted.json")
        if done.code:
            sys.exit(f"{variant}, uninterrupted: {done.err}")
        (folder / "counted.json").replace(folder / "moments.json")
    return folder


def report(runs: Sequence[Run], command: str) -> None:
    """A Markdown table, one row a variant."""
    columns = ["variant", "runs", "kills", *KINDS, "resumes", "tracebacks", "files compared", "files that differ"]
    lines = [
        "# Kills at random moments",
        "",
        f"`{command}`",
        "",
        f"| {' | '.join(columns)} |",
        f"|---|{'---:|' * (len(columns) - 1)}",
    ]
    for variant in VARIANTS:
        of_variant = [run for run in runs if run["variant"] == variant]
        lines += [row_of(variant, of_variant)] if of_variant else []
    sys.stdout.write("\n".join([*lines, row_of("**all**", runs)]) + "\n")


def row_of(name: str, runs: Sequence[Run]) -> str:
    """The sums over some runs."""
    kills = Counter(kind for run in runs for kind, *_ in run["kills"])
    figures = [
        len(runs),
        kills.total(),
        *(kills[kind] for kind in KINDS),
        sum(run["resumes"] for run in runs),
        sum(len(run["tracebacks"]) for run in runs),
        sum(run["compared"] for run in runs),
        sum(len(run["differ"]) for run in runs),
    ]
    return f"| {name} | {' | '.join(map(str, figures))} |"


if __name__ == "__main__":
    main()
