"""Reward models on real pairs: SmolLM2 with adapters, and a head on MiniLM's features; length alone beside them.

    make smollm2
    python benchmarks/reward_models.py --data FOLDER --seeds 10 11 12 > benchmarks/results/reward_models.md

FOLDER holds public pairs: `rasbt/instruction-data-with-preference.json.gz`, 1,100 answers to instructions, and
`hh-rlhf/harmless-base/test.jsonl.gz`, 2,312 dialogues about harm. For each set, model and seed `align reward` fits one,
the labeler, on four tenths of the pairs, and another, the scorer, on four tenths of others; both are measured on the
last two tenths, with prompts that neither has seen. How often the two agree there says how far a policy that learns
from one may be judged by the other. No text of a pair is shown. The ridge was chosen on seeds 100 to 105, SmolLM2's
learning rate on seed 100 (instructions: 2e-4 has 0.86, 1e-4 0.74; all else is a first guess). Interrupted, it goes on
where it stopped.

On a core that is shared a fit of SmolLM2 takes a quarter of an hour (400 pairs), one of MiniLM half a minute.

`--policies` then labels a run of SmolLM2 on instructions by the fitted model, against the offline baseline on the same
pairs, both judged by the scorer on MiniLM: recipes/smollm2-reward.yaml. That is an hour and a quarter a run on a core
that is shared, two runs a seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
SETS = {
    "instructions": "rasbt/instruction-data-with-preference.json.gz",
    "dialogues": "hh-rlhf/harmless-base/test.jsonl.gz",
}
MODELS: dict[str, dict[str, str]] = {
    "SmolLM2, adapters": {},
    "MiniLM, frozen": {
        "reward.model_name_or_path": "models/minilm",
        "reward.head": "frozen",
        "reward.lora": "null",
        "reward.num_train_epochs": "null",
        "reward.warmup_steps": "0",
        "reward.gradient_accumulation_steps": "1",
        "reward.center_rewards_coefficient": "null",
        "reward.too_long": "cut",
    },
}
RECIPE = "recipes/smollm2-reward.yaml"
ALPACA = "llamafactory/alpaca_en_demo.json.gz"
ROLES = {"labeler": ("[:40%]", "[80%:]"), "scorer": ("[40%:80%]", "[80%:]")}
"""Which rows of a set each role is fitted on, and which both are measured on; there is one row a prompt."""


class Fit(NamedTuple):
    """One reward model."""

    data: str
    model: str
    role: str
    seed: int
    folder: Path

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "rounds/000/reward.json").read_text())
        return found

    def seconds(self) -> tuple[float, float]:
        """How long it took, and its peak memory in GB."""
        events = map(json.loads, (self.folder / "ledger.jsonl").read_text().splitlines())
        finished = next(event for event in events if event["event"] == "finish" and event["stage"] == "reward")
        return finished["seconds"], finished["peak_memory_bytes"] / 1e9


def main() -> None:
    """Fit what is not fitted, and print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "reward-study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rows", type=int, default=1000, help="of each set, at most")
    parser.add_argument("--policies", action="store_true", help="align SmolLM2 with the models too")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every fit")
    options = parser.parse_args()
    fits = [
        fit_of(options, data, model, role, seed)
        for seed in options.seeds
        for data in options.sets
        for model in options.models
        for role in ROLES
    ]
    for fit in fits:
        make_rows(options, fit.data, fit.seed)
        align(options, "reward", fit.folder, {**settings_of(options, fit), **MODELS[fit.model]}, options.set)
    tables = [held_out(fits), reliability(fits), agreement(options, fits)]
    if options.policies:
        tables.append(policies(options))
    sys.stdout.write("\n\n".join(tables) + "\n")


def fit_of(options: argparse.Namespace, data: str, model: str, role: str, seed: int) -> Fit:
    """A reward model and its folder."""
    return Fit(data, model, role, seed, options.runs / f"{data}-{model.split(',')[0].lower()}-{role}-{seed}")


def rows_of(options: argparse.Namespace, data: str, seed: int) -> Path:
    """The file of a set's pairs in an order of the seed's."""
    return Path(options.runs) / f"{data}-{seed}.jsonl"


def make_rows(options: argparse.Namespace, data: str, seed: int) -> None:
    """One pair a prompt, in the seed's order: parts of the file then share no prompt."""
    from align_cli.data.chats import Form, in_form
    from align_cli.data.preferences import read_preferences
    from align_cli.seeds import seeded_order

    place = rows_of(options, data, seed)
    if place.exists():
        return
    pairs = in_form(read_preferences(str(options.data / SETS[data])), Form("always", True, None, "keep"), data)
    once = {json.dumps(pair["prompt"]): pair for pair in pairs if pair["chosen"] != pair["rejected"]}
    rows = list(once.values())
    order = seeded_order(len(rows), seed, "reward study")[: options.rows]
    place.parent.mkdir(parents=True, exist_ok=True)
    fields = ("prompt", "chosen", "rejected")
    place.write_text("".join(json.dumps({name: rows[index][name] for name in fields}) + "\n" for index in order))


def settings_of(options: argparse.Namespace, fit: Fit) -> dict[str, Any]:
    """What of the recipe is another in a fit."""
    place = rows_of(options, fit.data, fit.seed)
    fitted_on, measured_on = ROLES[fit.role]
    return {
        "seed": fit.seed,
        "data.preferences": f"{place}{fitted_on}",
        "data.eval_preferences": f"{place}{measured_on}",
        "data.prompts": f"{options.data / ALPACA}[:600]",
        "data.eval_prompts": f"{options.data / ALPACA}[600:]",
        "reward.preferences": f"{place}{fitted_on}",
        "reward.eval_preferences": f"{place}{measured_on}",
        "labelers.judge.model_name_or_path": "models/minilm",  # asked by nobody here
    }


def align(
    options: argparse.Namespace, command: str, folder: Path, changed: dict[str, Any], more: Sequence[str] = ()
) -> None:
    """`align` in a process of its own."""
    words = [sys.executable, "-c", "from align_cli.cli.main import main; main()", command, RECIPE]
    words += [f"{key}={value}" for key, value in {"output_dir": folder, **changed}.items()]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        subprocess.run([*words, *more], check=True, cwd=ROOT, env=environment, stdout=log, stderr=log)


def groups(fits: Sequence[Fit]) -> Iterator[tuple[str, str, list[Fit]]]:
    """The fits of a set and a model, the scorers aside."""
    for data, model in dict.fromkeys((fit.data, fit.model) for fit in fits):
        own = [fit for fit in fits if (fit.data, fit.model, fit.role) == (data, model, "labeler")]
        yield data, model, own


def held_out(fits: Sequence[Fit]) -> str:
    """Each fit on pairs of prompts that it has not seen."""
    lines = [
        "| pairs | model | seed | fitted on | held out | accuracy [95%] | length alone [95%] | agrees with length "
        "| log loss | calibration error | accuracy on its own pairs | time | memory |",
        "|" + "---|" * 13,
    ]
    for data, model, own in groups(fits):
        for fit in own:
            report, (seconds, memory) = fit.report(), fit.seconds()
            one = report["held_out"]
            cells = [
                data,
                model,
                fit.seed,
                report["num_pairs"],
                one["num_pairs"],
                f"{one['accuracy']:.3f} [{one['low']:.3f}, {one['high']:.3f}]",
                f"{one['length_accuracy']:.3f} [{one['length_low']:.3f}, {one['length_high']:.3f}]",
                f"{one['length_agreement']:.3f}",
                f"{one['log_loss']:.3f}",
                f"{one['calibration_error']:.3f}",
                f"{report['fitted']['accuracy']:.3f}",
                f"{seconds:.0f} s",
                f"{memory:.2f} GB",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def reliability(fits: Sequence[Fit]) -> str:
    """How right each model is where it is about equally sure, over all seeds."""
    lines = ["| pairs | model | confidence | n | mean confidence | accuracy |", "|" + "---|" * 6]
    for data, model, own in groups(fits):
        for bins in zip(*(fit.report()["reliability"] for fit in own), strict=True):
            count = sum(one["num_pairs"] for one in bins)
            if count:
                means = [
                    sum(one[name] * one["num_pairs"] for one in bins) / count for name in ("confidence", "accuracy")
                ]
                span = f"{bins[0]['low']:.2f} to {bins[0]['high']:.2f}"
                lines.append(f"| {data} | {model} | {span} | {count} | {means[0]:.3f} | {means[1]:.3f} |")
    return "\n".join(lines)


def agreement(options: argparse.Namespace, fits: Sequence[Fit]) -> str:
    """How often models that were fitted on other pairs prefer the same answer of a held-out pair."""
    lines = ["| pairs | labeler | scorer | the same answer |", "|" + "---|" * 4]
    for data in dict.fromkeys(fit.data for fit in fits):
        for model in dict.fromkeys(fit.model for fit in fits):
            for other in dict.fromkeys(fit.model for fit in fits):
                shares = [_same(options, data, model, other, seed) for seed in options.seeds]
                lines.append(f"| {data} | {model} | {other} | {fmean(shares):.3f} |")
    return "\n".join(lines)


def _same(options: argparse.Namespace, data: str, model: str, other: str, seed: int) -> float:
    ours = margins(options, fit_of(options, data, model, "labeler", seed))
    theirs = margins(options, fit_of(options, data, other, "scorer", seed))
    return fmean((one > 0) == (another > 0) for one, another in zip(ours, theirs, strict=True))


def margins(options: argparse.Namespace, fit: Fit) -> list[float]:
    """r(chosen) − r(rejected) on the held-out pairs; kept beside the fit."""
    kept = fit.folder.parent / f"{fit.folder.name}.margins.json"
    if not kept.exists():
        from align_cli.data.preferences import read_preferences
        from align_cli.labelers import build_labeler
        from align_cli.recipe.sections.labelers import RewardModelLabelerSection

        place = str(fit.folder / "rounds/000/reward_model")
        labeler: Any = build_labeler("fit", RewardModelLabelerSection(kind="reward_model", model_name_or_path=place))
        rows = read_preferences(f"{rows_of(options, fit.data, fit.seed)}{ROLES[fit.role][1]}")
        prompts = [row["prompt"] for row in rows]
        chosen, rejected = (labeler.score(prompts, [row[side] for row in rows]) for side in ("chosen", "rejected"))
        kept.write_text(json.dumps([one - other for one, other in zip(chosen, rejected, strict=True)]))
    found: list[float] = json.loads(kept.read_text())
    return found


def policies(options: argparse.Namespace) -> str:
    """SmolLM2 labelled by the fitted model against the offline baseline, judged by the scorer of the other kind."""
    lines = [
        "| seed | method | round | win against initial | at equal lengths | KL | length |",
        "|" + "---|" * 7,
    ]
    for seed in options.seeds:
        ours = fit_of(options, "instructions", "SmolLM2, adapters", "labeler", seed)
        judge = fit_of(options, "instructions", "MiniLM, frozen", "scorer", seed)
        changed = settings_of(options, ours) | {
            "labelers.judge.model_name_or_path": judge.folder / "rounds/000/reward_model"
        }
        align(options, "train", ours.folder, changed, options.set)
        baseline = options.runs / f"offline-{seed}"
        offline = {**changed, "method.sources": "{offline: {mixing: 1.0}, dpr: null}", "preset": "null"}
        begun = (baseline / "run.json").exists()
        align(options, "train", baseline, offline, [*options.set, *([] if begun else ["--from", f"{ours.folder}@0"])])
        for method, folder in (("reward model's labels", ours.folder), ("offline", baseline)):
            for path in sorted(folder.glob("rounds/*/evaluation.json")):
                one = json.loads(path.read_text())
                won = one["against"].get("initial")
                if won:
                    rate = f"{won['win_rate']:.3f} [{won['low']:.3f}, {won['high']:.3f}]"
                    equal = f"{won['length_controlled_win_rate']:.3f}"
                    kl, length = (f"{one[name]['mean']:.2f}" for name in ("kl", "length"))
                    lines.append(f"| {seed} | {method} | {one['round']} | {rate} | {equal} | {kl} | {length} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
