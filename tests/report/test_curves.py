"""The figures of optimizer steps as curves."""

from __future__ import annotations

import pytest

from align_cli.report import curves
from align_cli.report.curves import training_curves

TRAINING = {
    0: [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}],
    1: [{"step": 1, "loss": 0.7, "dpr/margin": 0.1, "dpr/grad_norm": 2.0}, {"step": 2, "loss": 0.6, "dpr/margin": 0.2}],
    2: [{"step": 3, "loss": 0.5, "dpr/margin": 0.3, "dpr/unheard_of": 1.0}],
}


def test_each_figure_is_a_column_over_all_rounds_with_gaps_where_a_step_has_none() -> None:
    columns = training_curves(TRAINING)["columns"]
    assert columns["rounds"] == {
        "step": [1, 2, 3],
        "loss": [0.7, 0.6, 0.5],
        "dpr/margin": [0.1, 0.2, 0.3],
        "dpr/grad_norm": [2.0, None, None],
        "round": [1, 1, 2],
        "dpr/unheard_of": [None, None, 1.0],
    }
    assert columns["warm_start"] == {"step": [1, 2], "loss": [5.0, 4.0], "round": [0, 0]}


def test_figures_of_a_kind_share_a_chart_and_none_is_left_out() -> None:
    charts = training_curves(TRAINING)["charts"]
    assert [(chart["title"], chart["columns"], chart["names"]) for chart in charts] == [
        ("Warm start: loss", "warm_start", ["loss"]),
        ("Loss", "rounds", ["loss"]),
        ("Margin, in nats", "rounds", ["dpr/margin"]),
        ("Gradient norm", "rounds", ["dpr/grad_norm"]),
        ("Other figures", "rounds", ["dpr/unheard_of"]),
    ]


def test_of_many_steps_each_point_is_the_mean_of_a_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "MOST_POINTS", 2)
    steps = [{"step": step, "loss": float(step)} for step in range(1, 6)]
    columns = training_curves({1: steps})["columns"]["rounds"]
    assert columns == {"step": [3, 5], "loss": [2.0, 4.5], "round": [1, 1]}


def test_what_is_no_finite_number_is_a_gap() -> None:
    columns = training_curves({1: [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 0.5}]})["columns"]["rounds"]
    assert columns["loss"] == [None, 0.5]


def test_a_run_that_was_not_trained_has_no_curves() -> None:
    assert training_curves({0: [], 1: []}) == {"columns": {}, "charts": []}
