"""The health of a run's labels, round by round, out of its ledger; and how far it has moved since the first round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align_cli.report.tables import NOTHING, TextTable


def labels_table(ledger: Sequence[Mapping[str, Any]]) -> TextTable:
    """One row a round: whether its labels are worth training on, and how far that has moved since the first round.

    The share of pairs that the longer response won and the mean margin stand with their change; then how often others
    name the winner that the labels name. An event that was edited by hand may lack a row.
    """
    rounds = labels_by_round(ledger)
    names = list(dict.fromkeys(name for one in rounds for name in one["agreement"]))
    columns = ["round", "ties", "longer won", "margin", *(f"agree: {name}" for name in names)]
    rows = []
    for one in rounds:
        ties = NOTHING if one["tie_share"] is None else f"{one['tie_share']:.0%}"
        moved = [_with_drift(one, name) for name in ("longer_won", "margin")]
        agreed = [f"{one['agreement'][name]:.2f}" if name in one["agreement"] else NOTHING for name in names]
        rows.append([str(one["round"]), ties, *moved, *agreed])
    return TextTable(columns, rows)


def labels_by_round(ledger: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The health of each round's labels, by its latest stages; `drift` is what has changed since the first of them."""
    found: dict[int, dict[str, Any]] = {}
    for event in ledger:
        figures = event.get("figures")
        health = figures.get("health") if isinstance(figures, Mapping) else None
        if event.get("event") != "finish" or not isinstance(health, Mapping):
            continue
        try:
            agreed = {str(name): float(one["agreement"]) for name, one in health.get("agreement", {}).items()}
            if event["stage"] == "train":  # which adds what the policy says
                if event["round"] in found:
                    found[event["round"]]["agreement"] |= agreed
                continue
            margin = health.get("margin")
            found[int(event["round"])] = {
                "round": int(event["round"]),
                "tie_share": health.get("tie_share"),
                "longer_won": health.get("longer_won"),
                "margin": margin["mean"] if margin else None,
                "agreement": agreed,
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    rounds = [found[number] for number in sorted(found)]
    for one in rounds:
        pairs = {name: (one[name], rounds[0][name]) for name in ("longer_won", "margin")}
        one["drift"] = {name: now - first for name, (now, first) in pairs.items() if None not in (now, first)}
    return rounds


def _with_drift(one: Mapping[str, Any], name: str) -> str:
    if one[name] is None:
        return NOTHING
    moved = one["drift"].get(name)
    return f"{one[name]:.2f}" + (f" ({moved:+.2f})" if moved else "")
