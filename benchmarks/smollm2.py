"""A real instruct model on two CPU cores: SAIL-PR against offline DPO, as recipes/smollm2.yaml and its baseline say.

    make smollm2
    python benchmarks/smollm2.py --data FOLDER --seeds 10 11 12 --jobs 2 > benchmarks/results/smollm2.md

FOLDER holds public data: instructions (`llamafactory/alpaca_en_demo.json.gz`), of which the first 600 are trained on
and the others held out, and pairs (`rasbt/instruction-data-with-preference.json.gz`), put in the order of the lexicon
that labels the policy's own responses too. Three seeds, two runs at a time, take about an hour and a half; interrupted,
it goes on where it stopped. A baseline begins with round 0 of the other run, which is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
NAMES = ("smollm2", "smollm2-offline")
NUM_SAMPLES = 10


class Run(NamedTuple):
    """One recipe with one seed."""

    name: str
    seed: int
    folder: Path

    def evaluations(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("rounds/*/evaluation.json"))]

    def finished(self) -> list[dict[str, Any]]:
        events = map(json.loads, (self.folder / "ledger.jsonl").read_text().splitlines())
        return [event for event in events if event["event"] == "finish"]

    def samples(self, round_number: int) -> list[dict[str, Any]]:
        path = self.folder / f"rounds/{round_number:03d}/samples.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def checkpoints(self) -> list[int]:
        """Bytes of each round's."""
        folders = sorted(self.folder.glob("rounds/*/checkpoint"))
        return [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders]


def main() -> None:
    """Run what is not finished, and print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "smollm2-study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for both recipes")
    options = parser.parse_args()
    make_pairs(options)
    pairs = [(run_of(options, NAMES[0], seed), run_of(options, NAMES[1], seed)) for seed in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:  # every run of ours is longer than a baseline, and begins before any
        ours = [pool.submit(align_ours, options, run) for run, _ in pairs]
        theirs = [pool.submit(align_theirs, options, *pair, begun) for pair, begun in zip(pairs, ours, strict=True)]
        for ended in (*ours, *theirs):
            ended.result()
    sys.stdout.write(report(pairs))


def make_pairs(options: argparse.Namespace) -> None:
    """The offline pairs: real ones, as the lexicon labels them."""
    place = options.runs / "plain.jsonl"
    if not place.exists():
        options.runs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "recipes/rewards/plain_words.py", options.data / PAIRS, LEXICON]
        made = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE)
        place.write_bytes(made.stdout)


def run_of(options: argparse.Namespace, name: str, seed: int) -> Run:
    """A recipe's run with a seed."""
    return Run(name, seed, options.runs / f"{name}-{seed}")


def align_ours(options: argparse.Namespace, run: Run) -> None:
    """The recipe's run."""
    align(options, run, [f"data.prompts={options.data / ALPACA}[:600]"])


def align_theirs(options: argparse.Namespace, ours: Run, run: Run, ended: Future[None]) -> None:
    """The baseline's, which takes over round 0 of ours once that has ended."""
    ended.result()
    begun = (run.folder / "run.json").exists()
    align(options, run, [] if begun else ["--from", f"{ours.folder}@0"])


LEXICON = "models/easy_words.txt"
ALPACA, PAIRS = "llamafactory/alpaca_en_demo.json.gz", "rasbt/instruction-data-with-preference.json.gz"


def align(options: argparse.Namespace, run: Run, more: Sequence[str]) -> None:
    """`align train` in a process of its own."""
    changed = {
        "output_dir": run.folder,
        "seed": run.seed,
        "data.eval_prompts": f"{options.data / ALPACA}[600:]",
        "data.preferences": options.runs / "plain.jsonl",
    }
    command = [sys.executable, "-c", "from align_cli.cli.main import main; main()", "train", f"recipes/{run.name}.yaml"]
    command += [f"{key}={value}" for key, value in changed.items()]
    threads = {"OMP_NUM_THREADS": "1"} if options.jobs > 1 else {}
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1"}
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with (run.folder.parent / f"{run.folder.name}.log").open("a") as log:
        subprocess.run([*command, *options.set, *more], check=True, cwd=ROOT, env=environment, stdout=log, stderr=log)


def report(pairs: Sequence[tuple[Run, Run]]) -> str:
    """All tables."""
    return "\n\n".join((win_rates(pairs), costs(pairs), samples(pairs[0][0]))) + "\n"


def win_rates(pairs: Sequence[tuple[Run, Run]]) -> str:
    """Against the initial policy, by the scorer, on held-out prompts."""
    lines = [
        "| seed | method | round | win against initial | n | reward | KL | length |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        for run in pair:
            for one in run.evaluations():
                won = one["against"].get("initial")
                words = f"{won['win_rate']:.3f} [{won['low']:.3f}, {won['high']:.3f}]" if won else "–"
                reward, kl, length = (one[name]["mean"] for name in ("reward", "kl", "length"))
                figures = [words, one["num_prompts"], f"{reward:.2f}", f"{kl:.2f}", f"{length:.1f}"]
                method = "offline-dpo" if run.name.endswith("offline") else "sail-dpr"
                lines.append("| " + " | ".join(map(str, [run.seed, method, one["round"], *figures])) + " |")
    return "\n".join(lines)


def costs(pairs: Sequence[tuple[Run, Run]]) -> str:
    """Seconds and peak memory of each stage, the mean and the most over rounds and seeds, and checkpoints."""
    lines = ["| method | stage | seconds, mean | peak memory, most |", "|---|---|---|---|"]
    for position, method in enumerate(("sail-dpr", "offline-dpo")):
        events = [event for pair in pairs for event in pair[position].finished()]
        for stage in dict.fromkeys(event["stage"] for event in events):
            own = [event for event in events if event["stage"] == stage]
            seconds = sum(event["seconds"] for event in own) / len(own)
            memory = max(event["peak_memory_bytes"] for event in own)
            lines.append(f"| {method} | {stage} | {seconds:.0f} | {memory / 1e9:.2f} GB |")
    largest = max(size for pair in pairs for run in pair for size in run.checkpoints())
    return "\n".join(
        [*lines, "", f"The largest checkpoint has {largest / 1e6:.1f} MB, its optimizer's moments among them."]
    )


def samples(run: Run) -> str:
    """Answers to the first held-out prompts, before and after."""
    before, after = run.samples(0), run.samples(len(run.evaluations()) - 1)
    lines = ["| prompt | before | after |", "|---|---|---|"]
    for first, last in list(zip(before, after, strict=True))[:NUM_SAMPLES]:
        cells = (first["prompt"][-1]["content"], answer(first), answer(last))
        lines.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(lines)


def answer(sample: dict[str, Any]) -> str:
    """A completion's text."""
    said = sample["completion"]
    text: str = said if isinstance(said, str) else said[-1]["content"]
    return text


if __name__ == "__main__":
    main()
