"""A report's data: everything that its page shows, as one JSON document. Facts in, plain values out.

    {"schema", "made": {"by", "at", "command"}, "runs": [{"path", "state", "lineage", "rounds", ...}]}

Where studies are reported on, `studies` stands before `runs`, as `study/reported.py` has them.

Called by `run/reported.py`; `page.py` shows what this says and works out nothing of its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from align_cli import __version__
from align_cli.recipe import Recipe
from align_cli.redaction import without_secrets
from align_cli.report.curves import training_curves
from align_cli.report.facts import RunFacts
from align_cli.report.labels import labels_by_round
from align_cli.report.samples import sample_columns

SCHEMA = 1
INTERVAL = ("win_rate", "low", "high")
CONTROLLED = ("length_controlled_win_rate", "length_controlled_low", "length_controlled_high")


def report_twin(
    runs: Sequence[RunFacts], *, command: str, time: str, studies: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The data of a report on one run, or on several side by side.

    Args:
        runs: one at least.
        command: what made the report.
        time: when, in UTC.
        studies: that some of the runs are of, as plain data.
    """
    made = {"by": f"align {__version__}", "at": time, "command": command}
    told = {"studies": [_with_places(one, runs) for one in studies]} if studies else {}
    return {"schema": SCHEMA, "made": made, **told, "runs": [run_twin(facts, len(runs)) for facts in runs]}


def _with_places(study: Mapping[str, Any], runs: Sequence[RunFacts]) -> dict[str, Any]:
    """A study whose runs say which of the report's they are."""
    places = {facts.path: place for place, facts in enumerate(runs)}
    return {**study, "runs": [{**one, "place": places[one["path"]]} for one in study["runs"]]}


def run_twin(facts: RunFacts, num_runs: int = 1) -> dict[str, Any]:
    """The data of one run, of so many that share a page."""
    return {
        "path": facts.path,
        "state": facts.state,
        "steps": {"finished": facts.num_finished, "planned": facts.num_planned, "next": facts.following},
        "lineage": _lineage(facts),
        "method": _method(facts.recipe),
        "chosen": {"round": facts.chosen, "why": facts.why},
        "rounds": _rounds(facts),
        "alerts": [alert._asdict() for alert in facts.alerts],
        "training": training_curves(facts.training),
        "labels": _labels(facts.ledger),
        "engine": _engine(facts.ledger),
        "stages": _stages(facts.ledger),
        "samples": sample_columns(facts.samples, facts.chosen, facts.token, num_runs),
        "sources": _sources(facts.path),
    }


def _lineage(facts: RunFacts) -> list[dict[str, Any]]:
    """What the run was made from, in the order in which it goes in."""
    recipe, last = facts.recipe, facts.evaluations[-1] if facts.evaluations else None
    policy = recipe.policy
    how = ["LoRA" if policy.lora else "all weights", *["after a warm start"] * (policy.sft is not None)]
    cards = [("forked from", facts.origin, "its rounds up to there are this run's too")] if facts.origin else []
    cards.append(("policy", policy.model_name_or_path or "from scratch", ", ".join(how)))
    cards.append(("reference", policy.reference, f"version {last.kl['reference']}" if last else ""))
    data = recipe.data
    named = {
        "prompts": data.prompts,
        "pairs": data.preferences,
        "demonstrations": data.demonstrations,
        "held-out prompts": data.eval_prompts,
        "held-out pairs": data.eval_preferences,
    }
    cards += [(what, str(name), "") for what, name in named.items() if name is not None]
    uses = _uses_of_labelers(recipe)
    cards += [("labeler", name, f"{one.kind}: {uses.get(name, 'not used')}") for name, one in recipe.labelers.items()]
    own, *others = [f"{name} {version}" for name, version in facts.versions.items()] or [""]
    cards += [("versions", own, ", ".join(others))] if own else []
    return [
        {"what": what, "name": without_secrets(name), "detail": without_secrets(detail)} for what, name, detail in cards
    ]


def _uses_of_labelers(recipe: Recipe) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for source, section in recipe.method.sources.in_use().items():
        if (labeler := getattr(section, "labeler", None)) is not None:
            found.setdefault(labeler, []).append(f"labels {source}")
    for name in recipe.evaluate.all_scorers:
        found.setdefault(name, []).append("evaluates")
    for name in [name for name in found if name in recipe.labelers]:  # the dataset's own word is nobody's section
        for asked in recipe.labelers[name].asks():
            found.setdefault(asked, []).append(f"asked by {name}")
    return {name: ", ".join(uses) for name, uses in found.items()}


def _method(recipe: Recipe) -> dict[str, Any]:
    return {
        "loss": ", ".join(recipe.method.loss_types),
        "beta": recipe.method.beta,
        "sources": {name: section.mixing for name, section in recipe.method.sources.in_use().items()},
        "preset": recipe.preset,
        "seed": recipe.seed,
        "scorer": recipe.evaluate.scorer,
    }


def _rounds(facts: RunFacts) -> list[dict[str, Any]]:
    """The evaluation of each round, with the round whose policy it ended with."""
    rounds = []
    for one in facts.evaluations:
        rounds.append(
            {
                "round": one.round,
                "policy": one.policy,
                "policy_of_round": facts.policies.get(one.round, one.round),
                "num_prompts": one.num_prompts,
                "against": {name: _wins(found) for name, found in one.against.items()},
                "reward": one.reward,
                "kl": {name: one.kl[name] for name in ("mean", "standard_error")},
                "length": one.length,
                "eos_rate": one.eos_rate,
                "distinct_2": one.distinct_2,
                "pair_accuracy": one.preferences["accuracy"] if one.preferences else None,
                "other_scorers": {
                    name: {
                        "reward": found["reward"],
                        "against": {opponent: _wins(wins) for opponent, wins in found["against"].items()},
                    }
                    for name, found in (one.other_scorers or {}).items()
                },
            }
        )
    return rounds


def _wins(found: Mapping[str, Any]) -> dict[str, Any]:
    """Wins against one opponent: the raw win rate, the one at equal lengths, and their intervals."""
    names = (*INTERVAL, *CONTROLLED, "wins", "ties", "losses", "unanswered")
    return {name: found[name] for name in names if name in found}


def _labels(ledger: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The labels' health by round, and what labelers had to say of their own work."""
    rounds = labels_by_round(ledger)
    for one in rounds:
        share = one["longer_won"]
        one["length_accuracy"] = None if share is None else max(share, 1 - share)
    own = []
    for event in _finished(ledger):
        said = event["figures"].get("labelers")
        for name, figures in said.items() if isinstance(said, Mapping) else ():
            numbers = _numbers(figures)
            if numbers:
                own.append({"round": event["round"], "stage": event["stage"], "labeler": name, "figures": numbers})
    return {"rounds": rounds, "labelers": own}


def _engine(ledger: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each round's generation came to: every figure that the ledger has of it, and tokens a second."""
    rows = []
    for event in _finished(ledger):
        if event["stage"] == "generate":
            figures = _numbers(event["figures"])
            seconds, tokens = _number(event.get("seconds")), figures.get("tokens")
            if tokens is not None and seconds:
                figures["tokens_per_second"] = tokens / seconds
            if tokens is not None and figures.get("completions"):
                figures["tokens_per_completion"] = tokens / figures["completions"]
            rows.append({"round": event["round"], "figures": figures})
    return rows


def _stages(ledger: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Time, tokens and memory: of each finished stage, and in sum by kind; and how often a process did not finish one.

    A stage that was done again, as after `--restart`, counts as often as it was done.
    """
    rows = [
        {
            "round": event["round"],
            "stage": event["stage"],
            "seconds": seconds,
            "tokens": _numbers(event["figures"]).get("tokens"),
            "peak_memory_bytes": _number(event.get("peak_memory_bytes")),
            "peak_gpu_memory_bytes": _number(event.get("peak_gpu_memory_bytes")),
        }
        for event in _finished(ledger)
        if (seconds := _number(event.get("seconds"))) is not None
    ]
    starts = sum(event.get("event") == "start" for event in ledger)
    return {"rows": rows, "totals": _totals(rows), "unfinished": max(starts - len(rows), 0)}


def _totals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    whole = sum(row["seconds"] for row in rows)
    totals = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        of_stage = [row for row in rows if row["stage"] == stage]
        seconds = sum(row["seconds"] for row in of_stage)
        tokens = [row["tokens"] for row in of_stage if row["tokens"] is not None]
        peaks = {
            name: max((row[name] for row in of_stage if row[name] is not None), default=None)
            for name in ("peak_memory_bytes", "peak_gpu_memory_bytes")
        }
        totals.append(
            {
                "stage": stage,
                "times": len(of_stage),
                "seconds": seconds,
                "share": seconds / whole if whole else 0.0,
                "seconds_each": fmean(row["seconds"] for row in of_stage),
                "tokens": sum(tokens) if tokens else None,
                **peaks,
            }
        )
    return totals


def _finished(ledger: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The stages that were finished; an event that was edited by hand may have no figures."""
    return [
        event if isinstance(event.get("figures"), Mapping) else {**event, "figures": {}}
        for event in ledger
        if event.get("event") == "finish"
    ]


def _numbers(value: Any) -> dict[str, float]:
    """The figures of a mapping that are numbers."""
    found = value.items() if isinstance(value, Mapping) else ()
    return {str(name): number for name, one in found if (number := _number(one)) is not None}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 else None


def _sources(path: str) -> dict[str, dict[str, str]]:
    """By section of the page: the command that tells the same, and the artifacts that it comes from."""
    run = shlex.quote(path)
    status = f"align status {run} --json"
    return {
        "rounds": {"command": status, "from": "rounds/*/evaluation.json, made by the evaluate stage"},
        "frontier": {"command": status, "from": "rounds/*/evaluation.json: reward and kl"},
        "training": {"command": f"align report {run}", "from": "rounds/*/training.jsonl, made by the train stage"},
        "labels": {"command": status, "from": "ledger.jsonl: what the label and train stages say of the labels"},
        "engine": {"command": status, "from": "ledger.jsonl: what the generate stage says"},
        "stages": {"command": status, "from": "ledger.jsonl"},
        "samples": {
            "command": f"align samples {run} --json",
            "from": "rounds/*/samples.jsonl, made by the evaluate stage",
        },
    }
