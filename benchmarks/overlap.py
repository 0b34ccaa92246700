"""What `generate.rounds_ahead: 1` gains and costs, on the playground.

Gain: wall time of runs whose responses come from a server, with and without. The server is a process of its own whose
answers take a while and little of the CPU (`--seconds` each), as one elsewhere would, so the rest of the machine is the
training's. Cost: the same recipe at several seeds with and without, sampled in this process, to the same figures as by
servers: win rate against the initial policy, with the KL that it is had at, each pair of runs from one initial policy.

    OMP_NUM_THREADS=1 python benchmarks/overlap.py --rounds 3 --steps 150 --seeds > benchmarks/results/overlap.md
    OMP_NUM_THREADS=1 python benchmarks/overlap.py --repetitions 0 >> benchmarks/results/overlap.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

from stale_pairs import SETTINGS

from align_cli.artifacts.json_text import to_json
from align_cli.cli.reporters import RunReporter
from align_cli.playground.model import make_policy
from align_cli.recipe import load_recipe
from align_cli.run.folder import RunFolder
from align_cli.run.loop import align_rounds

ROOT = Path(__file__).parent.parent
QUICKSTART, TEXT_SERVER = ROOT / "recipes" / "quickstart.yaml", ROOT / "tests" / "text_server.py"
WITH_THE_TERM = (*SETTINGS, "method.sources.dpr.gradient=0.3")
"""Half of each batch the policy's own pairs, two a prompt, as where stale pairs are measured; with the term."""
WAYS = {"one after the other": "generate.rounds_ahead=0", "rounds_ahead: 1": "generate.rounds_ahead=1"}
CONCURRENCY = 4


class Timed(NamedTuple):
    """One run by a server: its wall seconds, and those of all of its rounds in each of two stages."""

    run: float
    generate: float
    train: float


class Learnt(NamedTuple):
    """What one run came to: win rate and KL after its last round, and the mean weight of the last round's pairs."""

    win_rate: float
    kl: float
    weight: float


def main() -> None:
    """Measure both, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=0.4)
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    size = [*WITH_THE_TERM, f"rounds={options.rounds}", f"train.steps_per_round={options.steps}"]
    size += [f"generate.prompts_per_round={options.prompts}", "policy.sft.max_steps=300"]
    sys.stdout.write(
        f"`OMP_NUM_THREADS=1 python benchmarks/overlap.py {' '.join(sys.argv[1:])}`, CPU, 1 thread; "
        f"recipes/quickstart.yaml with {options.rounds} rounds of {options.steps} steps and {options.prompts} "
        "prompts.\n\n"
    )
    if options.repetitions:
        sys.stdout.write(gain([*size, "evaluate.num_prompts=32"], options.repetitions, options.seconds))
        sys.stdout.flush()
    if options.seeds:
        sys.stdout.write(cost(size, options.seeds))


def gain(size: Sequence[str], repetitions: int, seconds: float) -> str:
    """The table of wall seconds, ways in turn."""
    found: dict[str, list[Timed]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), seconds) as url:
        model = f"policy={to_json({'model_name_or_path': str(Path(folder, 'model'))})}"
        server = ["generate.engine=server", f"generate.server={{base_urls: ['{url}'], concurrency: {CONCURRENCY}}}"]
        for repetition in range(repetitions):
            for way, override in WAYS.items():
                output = Path(folder, f"{repetition} {override[-1]}")
                began = time.monotonic()
                events = trained(output, [*size, model, *server, override])
                found[way].append(
                    Timed(time.monotonic() - began, *(spent(events, one) for one in ("generate", "train")))
                )
    rows = [
        f"| {way} | {seconds_of([one.run for one in timed])} | {seconds_of([one.generate for one in timed])} | "
        f"{seconds_of([one.train for one in timed])} |"
        for way, timed in found.items()
    ]
    head = f"Responses from a server that takes {seconds:g} s for each answer, {CONCURRENCY} under way at once; wall "
    head += (
        f"seconds, median of {repetitions} and their range:\n\n| way | run | all generate stages | all train stages |"
    )
    return "\n".join([head, "|---|---|---|---|", *rows, "", ""])


def cost(size: Sequence[str], seeds: Sequence[int]) -> str:
    """The table of what is learnt, by seed."""
    rows, differences = [], []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            without, ahead = (learnt(Path(folder, name[-1]), [*size, f"seed={seed}", name]) for name in WAYS.values())
        differences.append(ahead.win_rate - without.win_rate)
        rows.append(
            f"| {seed} | {without.win_rate:.3f} at {without.kl:.2f} | {ahead.win_rate:.3f} at {ahead.kl:.2f} | "
            f"{differences[-1]:+.3f} | {ahead.weight:.2f} |"
        )
    mean, error = statistics.fmean(differences), 0.0
    if len(differences) > 1:
        error = statistics.stdev(differences) / len(differences) ** 0.5
    head = (
        "Win rate against the initial policy at the KL (nats a response) after the last round; the mean weight of the "
    )
    head += "last round's own pairs:\n\n| seed | one after the other | rounds_ahead: 1 | difference | weight |"
    return "\n".join([head, "|---|---|---|---|---|", *rows, "", f"Mean difference {mean:+.3f} ± {error:.3f}.", ""])


@contextmanager
def serving(folder: Path, seconds: float) -> Iterator[str]:
    """The address of a server, in a process of its own, that has a model of the playground's and takes others."""
    make_policy(folder / "model", 0)
    command = [sys.executable, str(TEXT_SERVER), str(folder / "model"), "--name", "policy"]
    command += ["--reloads", "--seconds", str(seconds)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert server.stdout is not None
        yield f"{server.stdout.readline().removeprefix('listening at ').strip()}/v1"
    finally:
        server.terminate()
        server.wait()


def trained(output: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """The events of a run that is carried out now."""
    align_rounds(load_recipe(QUICKSTART, [f"output_dir={to_json(str(output))}", *overrides]), RunReporter())
    return RunFolder(output).ledger.events()


def learnt(output: Path, overrides: Sequence[str]) -> Learnt:
    """What a run came to that is carried out now."""
    recipe = load_recipe(QUICKSTART, [f"output_dir={to_json(str(output))}", *overrides])
    last = align_rounds(recipe, RunReporter())[-1]
    trainings = [
        one for one in RunFolder(output).ledger.events() if one["event"] == "finish" and one["stage"] == "train"
    ]
    weight = trainings[-1]["figures"]["last_step"].get("dpr/importance_weight", 1.0)
    return Learnt(float(last.against["initial"]["win_rate"]), float(last.kl["mean"]), weight)


def spent(events: Sequence[dict[str, Any]], stage: str) -> float:
    """Seconds of all rounds in a stage."""
    return sum(one["seconds"] for one in events if one["event"] == "finish" and one["stage"] == stage)


def seconds_of(values: Sequence[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
