"""The figures of optimizer steps as curves: one column a figure, and which of them share a chart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

MOST_POINTS = 3_000
"""Of a curve; of more steps, each point is the mean of a stretch."""

CHARTS = {
    "Loss": ("loss",),
    "Margin, in nats": ("margin",),
    "Share of pairs ranked as labelled": ("accuracy",),
    "Bilevel terms": ("response_term", "label_term"),
    "Optimism term": ("optimism_term",),
    "KL term, in nats": ("kl",),
    "Weight of the KL": ("kl_coefficient",),
    "Gradient norm": ("grad_norm",),
    "Importance weight": ("importance_weight", "importance_weight_truncated"),
    "Baseline, and drift of the loss since sampling": ("baseline", "loss_drift"),
    "Confidence of the policy's own labels": ("confidence",),
    "Learning rate": ("learning_rate",),
}
"""Title, and what a figure is called behind its source's name."""
OTHERS = "Other figures"
WARM_START, ROUNDS = "warm_start", "rounds"


def training_curves(training: Mapping[int, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """All curves of a run.

    Args:
        training: the records of each round's steps, by round; round 0 is the warm start, whose steps count anew.

    Returns:
        `columns` of the `warm_start` and of the `rounds`, by name, `step` and `round` among them, with None where a
        step has no such figure; and `charts`: a `title`, which `columns`, and the `names` of its curves.
    """
    by_kind = {
        WARM_START: [{**one, "round": 0} for one in training.get(0, ())],
        ROUNDS: [{**one, "round": number} for number in sorted(training) if number for one in training[number]],
    }
    columns = {kind: _columns(records) for kind, records in by_kind.items() if records}
    charts = [chart for kind, found in columns.items() for chart in _charts(kind, found)]
    return {"columns": columns, "charts": charts}


def _columns(records: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    names = list(dict.fromkeys(name for one in records for name in one))
    stretch = math.ceil(len(records) / MOST_POINTS)
    parts = [records[start : start + stretch] for start in range(0, len(records), stretch)]
    return {name: [_point(name, part) for part in parts] for name in names}


def _point(name: str, part: Sequence[Mapping[str, float]]) -> float | None:
    if name in ("step", "round"):
        return part[-1].get(name)
    values = [float(one[name]) for one in part if name in one and math.isfinite(one[name])]
    return float(f"{fmean(values):.6g}") if values else None


def _charts(kind: str, columns: Iterable[str]) -> list[dict[str, Any]]:
    names = [name for name in columns if name not in ("step", "round")]
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_title(name), []).append(name)
    order = [*CHARTS, OTHERS]
    start = "Warm start: " if kind == WARM_START else ""
    return [
        {"title": f"{start}{title.lower() if start else title}", "columns": kind, "names": found[title]}
        for title in order
        if title in found
    ]


def _title(name: str) -> str:
    figure = name.rpartition("/")[2]
    return next((title for title, figures in CHARTS.items() if figure in figures), OTHERS)
