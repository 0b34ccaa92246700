"""The frontier: interpolation along a path, the best within a KL, and the envelope, worked by hand."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from align_cli.metrics.frontier import Point, best_of_paths, best_within, common_kl, envelope, value_at

PATH = [Point(0.0, 0.5), Point(1.0, 0.7), Point(3.0, 0.6)]
NUMBERS = st.floats(0, 10, allow_nan=False)
PATHS = st.lists(st.builds(Point, NUMBERS, NUMBERS), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("kl", "value"), [(0.0, 0.5), (0.25, 0.6), (1.0, 0.7), (2.0, 0.64342), (3.0, 0.6), (3.1, None), (-0.1, None)]
)
def test_between_two_evaluations_a_run_goes_straight_in_the_root_of_kl(kl: float, value: float | None) -> None:
    assert value_at(PATH, kl) == (None if value is None else pytest.approx(value, abs=1e-5))


def test_a_run_that_comes_back_counts_as_it_was_when_it_first_came_there() -> None:
    path = [Point(0.0, 0.5), Point(2.0, 0.7), Point(0.5, 0.9), Point(2.0, 1.0)]
    assert value_at(path, 0.5) == pytest.approx(0.6)
    assert best_within(path, 1.0) == pytest.approx(0.94142, abs=1e-5)


def test_the_best_within_a_kl_is_kept_when_the_run_goes_on_and_loses() -> None:
    assert best_within(PATH, 0.25) == pytest.approx(0.6)
    assert best_within(PATH, 2.0) == pytest.approx(0.7)
    assert best_within(PATH, 100.0) == pytest.approx(0.7)
    assert best_within([Point(1.0, 0.9)], 0.5) is None


def test_what_is_gained_as_the_root_of_kl_is_found_again_from_two_evaluations() -> None:
    path = [Point(kl, 0.5 + 0.2 * kl**0.5) for kl in (0.0, 3.0)]
    assert [value_at(path, kl) for kl in (0.1, 1.0, 2.0)] == pytest.approx([0.5 + 0.2 * kl**0.5 for kl in (0.1, 1, 2)])


def test_of_a_sweep_the_best_run_counts_at_each_kl() -> None:
    slow = [Point(0.0, 0.5), Point(1.0, 0.8)]
    fast = [Point(0.0, 0.5), Point(4.0, 0.9)]
    assert best_of_paths([slow, fast], 0.25) == pytest.approx(0.65)
    assert best_of_paths([slow, fast], 4.0) == pytest.approx(0.9)
    assert best_of_paths([], 1.0) is None


def test_the_envelope_leaves_out_what_another_point_beats() -> None:
    points = [Point(2.0, 0.6), Point(1.0, 0.7), Point(3.0, 0.9), Point(1.0, 0.4), Point(0.0, 0.5), Point(4.0, 0.9)]
    assert envelope(points) == [Point(0.0, 0.5), Point(1.0, 0.7), Point(3.0, 0.9)]


def test_two_runs_are_compared_as_far_as_both_came() -> None:
    assert common_kl(PATH, [Point(0.0, 0.5), Point(2.0, 0.7), Point(1.5, 0.8)]) == 2.0
    assert common_kl(PATH, []) is None


@given(PATHS, NUMBERS, NUMBERS)
def test_more_room_never_gains_less(path: list[Point], one: float, other: float) -> None:
    near, far = (best_within(path, kl) for kl in sorted((one, other)))
    assert near is None or (far is not None and far >= near)


@given(PATHS, NUMBERS)
def test_what_a_run_had_at_a_kl_is_never_more_than_its_best_within_it(path: list[Point], kl: float) -> None:
    found, best = value_at(path, kl), best_within(path, kl)
    assert found is None or (best is not None and found <= best + 1e-9)
