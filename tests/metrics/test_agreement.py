"""Agreement of two people: worked by hand, against scikit-learn, at its limits, and how often its interval covers."""

from __future__ import annotations

import random
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from align_cli.metrics.agreement import agreement

VERDICTS = ("first", "second", "tie")
PAIRED = st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), min_size=1, max_size=40)


def test_a_table_worked_by_hand() -> None:
    """Cohen's own kind of table: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o 0.7, p_e 0.5·0.6 + 0.5·0.4 = 0.5."""
    said = ["yes"] * 25 + ["no"] * 25
    others = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = agreement(said, others, seed=0)
    assert found.num_items == 50
    assert found.agreement == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.kappa_interval is not None
    assert found.interval.low < 0.7 < found.interval.high
    assert found.kappa_interval.low < 0.4 < found.kappa_interval.high


@given(PAIRED)
def test_it_is_scikit_learns(paired: list[tuple[str, str]]) -> None:
    said, others = ([pair[side] for pair in paired] for side in (0, 1))
    found = agreement(said, others, seed=0, num_resamples=50)
    if len(set(said)) == 1 and set(said) == set(others):  # of which kappa says nothing, and scikit-learn NaN
        assert found.kappa is None and found.kappa_interval is None
        assert found.agreement == 1.0
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.kappa == pytest.approx(cohen_kappa_score(said, others), abs=1e-12)


@given(PAIRED)
def test_who_is_called_the_one_changes_nothing(paired: list[tuple[str, str]]) -> None:
    said, others = ([pair[side] for pair in paired] for side in (0, 1))
    one, other = agreement(said, others, seed=0, num_resamples=20), agreement(others, said, seed=0, num_resamples=20)
    assert (one.agreement, one.kappa) == (pytest.approx(other.agreement), pytest.approx(other.kappa))


def test_its_limits() -> None:
    same = agreement(["first", "second", "tie"], ["first", "second", "tie"], seed=0)
    assert (same.agreement, same.kappa) == (1.0, 1.0)
    opposite = agreement(["first", "second"], ["second", "first"], seed=0)
    assert (opposite.agreement, opposite.kappa) == (0.0, -1.0)
    one = agreement(["first"], ["second"], seed=0)
    assert (one.agreement, one.kappa, one.interval) == (0.0, 0.0, (0.0, 0.0))
    with pytest.raises(ValueError, match="paired by item"):
        agreement([], [], seed=0)
    with pytest.raises(ValueError, match="paired by item"):
        agreement(["tie"], [], seed=0)
    with pytest.raises(ValueError, match="confidence"):
        agreement(["tie"], ["tie"], seed=0, confidence=1.0)


def test_the_interval_of_kappa_covers_about_as_often_as_it_says() -> None:
    """Two people who agree on 70% by nature and toss a coin for the rest: kappa is 0.7 in the long run."""
    rng, covered, tries = random.Random(0), 0, 300
    for number in range(tries):
        said = [rng.choice(VERDICTS[:2]) for _ in range(100)]
        others = [one if rng.random() < 0.7 else rng.choice(VERDICTS[:2]) for one in said]
        interval = agreement(said, others, seed=number, num_resamples=400).kappa_interval
        assert interval is not None
        covered += interval.low <= 0.7 <= interval.high
    assert 0.91 <= covered / tries <= 0.98
