"""What trackers are told, and in which order."""

from __future__ import annotations

import math

from align_cli.artifacts.records import Evaluation
from align_cli.tracking.points import end_point, step_point

WINS = {"win_rate": 0.75, "low": 0.5, "high": 0.9, "wins": 3, "ties": 0, "losses": 1, "version": "abc"}
EVALUATION = Evaluation(
    round=2,
    policy="p",
    num_prompts=4,
    scorer="truth",
    reward={"mean": 1.5, "standard_error": 0.25},
    against={"initial": WINS},
    kl={"mean": 0.5, "standard_error": 0.125, "reference": "r"},
    length={"mean": 12.0, "standard_error": 1.0},
    eos_rate=1.0,
    distinct_2=0.8,
    preferences={"accuracy": 0.6, "margin": 0.1, "num_pairs": 10},
    sampling={},
    other_scorers={"length": {"reward": None, "against": {"initial": {"win_rate": 0.25}}}},
)


def test_a_rounds_end_stands_behind_its_last_step_and_before_the_next() -> None:
    places = [step_point(1, 2, {}).place, step_point(1, 3, {}).place, end_point(3, EVALUATION, []).place]
    assert [*places, step_point(2, 4, {}).place] == sorted({*places, step_point(2, 4, {}).place})


def test_a_step_tells_all_of_its_figures_that_are_finite_numbers() -> None:
    point = step_point(2, 7, {"step": 1, "loss": 0.5, "dpr/kl": 0.25, "offline/margin": math.nan})
    assert point.step == 7
    assert point.figures == {"train/loss": 0.5, "train/dpr/kl": 0.25, "train/round": 2}


def test_a_rounds_end_tells_win_rates_with_intervals_kl_and_what_other_scorers_found() -> None:
    figures = end_point(6, EVALUATION, []).figures
    told = {name: figures[f"evaluation/initial/{name}"] for name in ("win_rate", "low", "high")}
    assert told == {"win_rate": 0.75, "low": 0.5, "high": 0.9}
    assert figures["evaluation/kl"] == 0.5
    assert figures["evaluation/reward"] == 1.5
    assert figures["evaluation/pairs/accuracy"] == 0.6
    assert figures["evaluation/length/initial/win_rate"] == 0.25
    assert all(isinstance(value, int | float) for value in figures.values())
