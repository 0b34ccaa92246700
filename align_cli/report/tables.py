"""Evaluations and ledgers as tables of text: the same rows for a terminal, for plain lines and for documents."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from align_cli.artifacts.records import Evaluation, RewardReport
from align_cli.errors import counted

NOTHING = "–"
FOR_TUNING = "; for tuning, not for reporting"
"""What stands behind the seeds of a study on whose seeds settings are chosen."""


class TextTable(NamedTuple):
    """A table of strings.

    Args:
        columns: headings.
        rows: one string a column in each.
    """

    columns: list[str]
    rows: list[list[str]]


def rounds_table(evaluations: Sequence[Evaluation]) -> TextTable:
    """One row a round: win rates with their 95% intervals, reward, KL, length and the rest.

    Beside each win rate is the length-controlled one (`LC`), what it would be at equal lengths, where it was measured.
    """
    opponents = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.against))
    controlled = [name for name in opponents if any(_is_controlled(one.against.get(name)) for one in evaluations)]
    columns = ["round"]
    for name in opponents:
        columns += [f"win vs {name}", *([f"LC vs {name}"] if name in controlled else [])]
    columns += ["reward", "KL", "length", "EOS", "distinct-2", "pair acc."]
    return TextTable(columns, [_round_row(one, opponents, controlled) for one in evaluations])


def scorers_table(evaluations: Sequence[Evaluation]) -> TextTable:
    """One row a round and scorer beside the one that decides: its win rates and its mean score; often without a row."""
    said = [(one, name, found) for one in evaluations for name, found in (one.other_scorers or {}).items()]
    opponents = list(dict.fromkeys(name for _, _, found in said for name in found["against"]))
    columns = ["round", "scorer"]
    for name in opponents:
        columns += [f"win vs {name}", f"LC vs {name}"]
    rows = []
    for one, scorer, found in said:
        wins = [win(found["against"].get(name), kind) for name in opponents for kind in ("", "length_controlled_")]
        rows.append([str(one.round), scorer, *wins, estimate(found["reward"], 2)])
    return TextTable([*columns, "reward"], rows)


def reward_table(report: RewardReport) -> TextTable:
    """One row for held-out pairs and one for those that it was fitted on."""
    columns = [
        "pairs",
        "n",
        "accuracy",
        "length alone",
        "agrees with length",
        "log loss",
        "calibration error",
        "margin",
    ]
    rows = {"held out": report.held_out, "fitted on": report.fitted}
    return TextTable(columns, [[name, *_reward_row(figures)] for name, figures in rows.items()])


def reliability_table(report: RewardReport) -> TextTable:
    """One row for each part of the confidences on held-out pairs."""
    rows = [
        [
            f"{one['low']:.2f} to {one['high']:.2f}",
            str(one["num_pairs"]),
            *([f"{one['confidence']:.2f}", f"{one['accuracy']:.2f}"] if one["num_pairs"] else [NOTHING] * 2),
        ]
        for one in report.reliability
    ]
    return TextTable(["confidence", "n", "mean confidence", "accuracy"], rows)


def stages_table(ledger: Sequence[Mapping[str, Any]]) -> TextTable:
    """One row a finished stage: what it made, how long it took and how much memory.

    An event that was edited by hand may lack a row.
    """
    rows = []
    for event in ledger:
        if event.get("event") != "finish":
            continue
        try:
            spent = [f"{event['seconds']:.1f} s", _memory(event)]
            rows.append([str(event["round"]), event["stage"], *spent, _main_figure(event)])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue
    return TextTable(["round", "stage", "time", "memory", "result"], rows)


def in_words(counts: Mapping[str, Any]) -> str:
    """A label stage's figures: what became of the candidates."""
    numbers = {_words(key): value for key, value in counts.items() if isinstance(value, int)}
    return ", ".join(counted(value, _singular(words), words) for words, value in numbers.items())


def figures_in_words(figures: Mapping[str, Any]) -> list[str]:
    """A label stage's figures, one line each: what became of the candidates, the labels' health, labelers' own."""
    health = figures.get("health", {})
    agreements = {f"agreement of {who}": found["agreement"] for who, found in health.get("agreement", {}).items()}
    shown = {_words(name): value for name, value in health.items() if isinstance(value, float)}
    lines = {"labels": shown | agreements, **figures.get("labelers", {})}
    return [in_words(figures), *(_named(name, numbers) for name, numbers in lines.items() if numbers)]


def _words(key: str) -> str:
    return key.replace("_", " ")


def _singular(words: str) -> str:
    """What one is called of what these words count; a pair of equal texts has two of them."""
    return re.sub(r"\b(?<!equal )(pair|tie|text|completion|response|prompt)s\b", r"\1", words)


def _named(name: str, numbers: Mapping[str, Any]) -> str:
    figures = {_words(key): value for key, value in numbers.items() if isinstance(value, int | float)}
    words = (f"{key} {_figure(value)}" for key, value in figures.items())
    return f"{name}: {', '.join(words)}"


def _figure(value: float) -> str:
    """Three digits; a count is shown whole, also one that is kept as a float."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


def span(seconds: float) -> str:
    """A stretch of time as people say it: `35s`, `1m35s`, `2h05m`, `3d04h`."""
    whole = max(round(seconds), 0)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if days:
        return f"{days}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


def size(num_bytes: int) -> str:
    """A number of bytes as people say it: `812 MB`, `3.4 GB`."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def markdown(table: TextTable) -> str:
    """The table in Markdown; a bar in a cell borders nothing."""
    heading, *rows = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (table.columns, *table.rows)
    ]
    return "\n".join([heading, "|" + "---|" * len(table.columns), *rows])


def _round_row(evaluation: Evaluation, opponents: Sequence[str], controlled: Sequence[str]) -> list[str]:
    wins = []
    for name in opponents:
        result = evaluation.against.get(name)
        wins += [win(result), *([win(result, "length_controlled_")] if name in controlled else [])]
    accuracy = evaluation.preferences["accuracy"] if evaluation.preferences else None
    return [
        str(evaluation.round),
        *wins,
        estimate(evaluation.reward, 2),
        estimate(evaluation.kl, 2),
        f"{evaluation.length['mean']:.1f}",
        f"{evaluation.eos_rate:.0%}",
        f"{evaluation.distinct_2:.2f}",
        NOTHING if accuracy is None else f"{accuracy:.2f}",
    ]


def _reward_row(figures: Mapping[str, Any]) -> list[str]:
    return [
        str(figures["num_pairs"]),
        f"{figures['accuracy']:.3f} [{figures['low']:.3f}, {figures['high']:.3f}]",
        f"{figures['length_accuracy']:.3f} [{figures['length_low']:.3f}, {figures['length_high']:.3f}]",
        f"{figures['length_agreement']:.3f}",
        f"{figures['log_loss']:.3f}",
        f"{figures['calibration_error']:.3f}",
        f"{figures['margin']:.2f}",
    ]


def win(result: Mapping[str, Any] | None, kind: str = "") -> str:
    """A win rate with its interval; of a kind: `length_controlled_`, or plain."""
    if result is None or f"{kind}win_rate" not in result:
        return NOTHING
    rate, low, high = (result[f"{kind}{name}"] for name in ("win_rate", "low", "high"))
    return f"{rate:.2f} [{low:.2f}, {high:.2f}]"


def _is_controlled(result: Mapping[str, Any] | None) -> bool:
    return result is not None and "length_controlled_win_rate" in result


def estimate(values: Mapping[str, Any] | None, digits: int) -> str:
    """A mean and its standard error."""
    if values is None:
        return NOTHING
    return f"{values['mean']:.{digits}f} ± {values['standard_error']:.{digits}f}"


def _memory(event: Mapping[str, Any]) -> str:
    """The most that the process had in memory until then, and a GPU in the stage."""
    found = [(event.get("peak_memory_bytes"), ""), (event.get("peak_gpu_memory_bytes"), " on the GPU")]
    return ", ".join(f"{size(peak)}{where}" for peak, where in found if peak is not None) or NOTHING


def _main_figure(event: Mapping[str, Any]) -> str:
    figures, stage = event.get("figures") or {}, event["stage"]
    if stage == "generate":
        speed = figures["tokens"] / max(event["seconds"], 1e-3)
        said = f"{counted(figures['completions'], 'completion')}, {speed:.0f} tokens/s"
        apart = (figures.get("engine") or {}).get("policy", {}).get("logp_difference")
        return f"{said}, servers {apart['mean']:.2g} nats a response off the trainer" if apart else said
    if stage == "label":
        return in_words(figures)
    if stage == "train" and "diverged" in figures:
        return f"diverged; its policy is that of round {figures['policy_of_round']}"
    if stage == "train":
        clipped = f", {counted(figures['clipped_steps'], 'step')} clipped" if figures.get("clipped_steps") else ""
        return f"loss {figures['last_step']['loss']:.3f} at step {figures['last_step']['step']}{clipped}"
    if stage == "sft" and figures.get("final_loss") is not None:
        return f"loss {figures['final_loss']:.2f} nats a token after {counted(figures['steps'], 'step')}"
    if stage == "reward":
        return f"accuracy {figures['accuracy']:.2f} on held-out pairs, of length alone {figures['length_accuracy']:.2f}"
    if stage == "evaluate":
        return f"KL {figures['kl']['mean']:.2f}, length {figures['length']['mean']:.1f}"
    return ""
