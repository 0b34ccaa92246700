from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.metrics.agreement import agreement

paired_margins = st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=20)


def test_worked_by_hand() -> None:
    # same, opposite, one tie, two ties: 1 + 0 + 1/2 + 1
    assert agreement([2.0, 1.0, 0.0, 0.0], [0.1, -3.0, 5.0, 0.0]) == 0.625


@given(paired_margins)
def test_is_symmetric_within_its_range_and_one_with_itself(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    assert 0.0 <= agreement(ours, theirs) <= 1.0
    assert agreement(ours, theirs) == agreement(theirs, ours)
    assert agreement(ours, ours) == 1.0
    assert agreement(ours, theirs) == agreement([7 * margin for margin in ours], theirs)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], []), ([math.nan], [1.0])])
def test_refuses_what_has_no_answer(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError):
        agreement(ours, theirs)
