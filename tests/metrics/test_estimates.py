from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.metrics.estimates import estimate

finite = st.floats(-1e9, 1e9)


def test_worked_by_hand() -> None:
    # mean 4, squared deviations 4 + 0 + 4, variance 8 / 2 = 4, standard error sqrt(4 / 3)
    assert estimate([2.0, 4.0, 6.0]) == pytest.approx((4.0, math.sqrt(4.0 / 3.0)))


def test_one_value_has_no_spread_and_no_nan() -> None:
    assert estimate([3.5]) == (3.5, 0.0)


def test_booleans_count_as_zero_and_one() -> None:
    assert estimate([True, False]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "at least one value"), ([math.nan], "finite values"), ([1.0, math.inf], "finite values")],
)
def test_nothing_and_non_finite_values_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(values)


@given(st.lists(finite, min_size=2, max_size=50))
def test_is_the_standard_deviation_over_the_root_of_n(values: list[float]) -> None:
    mean, standard_error = estimate(values)
    assert min(values) <= mean <= max(values)
    wanted = statistics.stdev(values) / math.sqrt(len(values))
    assert standard_error == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@given(finite, st.integers(1, 9))
def test_equal_values_have_no_error(value: float, count: int) -> None:
    assert estimate([value] * count) == (value, 0.0)
