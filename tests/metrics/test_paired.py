"""Differences of win rates on the same prompts."""

from __future__ import annotations

import numpy as np
import pytest

from align_cli.metrics.paired import win_rate_difference
from align_cli.metrics.preference import win_rate_of


def test_a_difference_is_the_mean_over_prompts() -> None:
    found = win_rate_difference([1.0, 0.5, 0.0, 1.0], [0.0, 0.5, 0.0, 0.5], seed=0)
    assert found.difference == pytest.approx(1.5 / 4)


def test_equal_outcomes_differ_by_nothing_without_doubt() -> None:
    outcomes = [1.0, 0.0] * 20
    assert win_rate_difference(outcomes, outcomes, seed=0) == (0.0, (0.0, 0.0))


def test_swapping_the_policies_swaps_the_sign() -> None:
    one, other = [1.0, 0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5, 0.0]
    assert win_rate_difference(one, other, seed=3).difference == -win_rate_difference(other, one, seed=3).difference


def test_pairing_narrows_the_interval_where_prompts_decide() -> None:
    rng = np.random.default_rng(0)
    easy = (rng.random(400) < 0.5).astype(float)
    better = np.where(rng.random(400) < 0.05, 1.0, easy)
    low, high = win_rate_difference(better.tolist(), easy.tolist(), seed=0).interval
    alone = win_rate_of(better.tolist(), seed=0).interval
    assert 0 < low < high
    assert high - low < (alone.high - alone.low) / 2


@pytest.mark.parametrize(
    ("one", "other"), [([], []), ([1.0], [1.0, 0.0]), ([2.0], [1.0]), ([1.0], [-0.5]), ([float("nan")], [1.0])]
)
def test_outcomes_that_cannot_be_paired_are_refused(one: list[float], other: list[float]) -> None:
    with pytest.raises(ValueError):
        win_rate_difference(one, other, seed=0)


@pytest.mark.long
def test_95_of_100_intervals_hold_the_difference_that_the_outcomes_were_drawn_with() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for number in range(2000):
        shared = rng.random(200)
        one, other = (shared < 0.6).astype(float), (np.where(rng.random(200) < 0.5, shared, rng.random(200)) < 0.5)
        low, high = win_rate_difference(one.tolist(), other.astype(float).tolist(), seed=number).interval
        held += low <= 0.1 <= high
    assert held / 2000 == pytest.approx(0.95, abs=0.02)
