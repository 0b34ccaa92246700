"""Means over seeds: hand-worked intervals, pairing, and how often the intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from align_cli.metrics.over_seeds import mean_over_seeds, paired_difference


def test_an_interval_is_that_of_students_table() -> None:
    # 1, 2, 3: mean 2, s 1, and t(2, 0.975) is 4.3027 in the table.
    found = mean_over_seeds([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.num_seeds == 3
    assert found.high == pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-4)
    assert found.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-4)


def test_one_seed_has_no_interval_rather_than_one_without_width() -> None:
    assert mean_over_seeds([0.7]) == (0.7, None, None, 1)


def test_what_two_runs_of_a_seed_share_cancels_in_their_difference() -> None:
    luck = {0: 0.10, 1: 0.50, 2: 0.90}
    found = paired_difference({seed: value + 0.05 for seed, value in luck.items()}, luck)
    assert found is not None and found.low is not None and found.high is not None
    assert found.mean == pytest.approx(0.05)
    assert found.high - found.low < 1e-9


def test_only_seeds_that_both_have_are_paired() -> None:
    found = paired_difference({0: 1.0, 1: 3.0, 7: 100.0}, {1: 1.0, 0: 0.0, 5: -100.0})
    assert found is not None
    assert (found.mean, found.num_seeds) == (1.5, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        mean_over_seeds([1.0, 2.0], confidence=confidence)


def test_no_value_and_no_number_are_refused() -> None:
    with pytest.raises(ValueError):
        mean_over_seeds([])
    with pytest.raises(ValueError):
        mean_over_seeds([1.0, math.nan])


@pytest.mark.long
@pytest.mark.parametrize("num_seeds", [2, 3, 10])
def test_95_of_100_intervals_hold_the_mean_that_the_values_were_drawn_around(num_seeds: int) -> None:
    draws = np.random.default_rng(0).normal(0.3, 2.0, size=(20_000, num_seeds)).tolist()
    intervals = [mean_over_seeds(values) for values in draws]
    held = sum(found.low <= 0.3 <= found.high for found in intervals)  # type: ignore[operator]
    assert held / len(draws) == pytest.approx(0.95, abs=0.006)  # four standard errors
