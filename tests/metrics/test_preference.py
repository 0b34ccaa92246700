from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.metrics.preference import pair_accuracy, win_rate

few_scores = st.integers(-3, 3).map(float)
paired_scores = st.lists(st.tuples(few_scores, few_scores), min_size=1, max_size=40)


def test_win_rate_counts_a_tie_half() -> None:
    result = win_rate([3.0, 1.0, 2.0, 5.0], [1.0, 2.0, 2.0, 0.0], seed=0)
    assert (result.win_rate, result.wins, result.ties, result.losses) == (0.625, 2, 1, 1)


def test_the_interval_depends_on_the_seed_alone() -> None:
    ours, theirs = [0.1, 0.9, 0.4, 0.7, 0.2], [0.2, 0.3, 0.4, 0.1, 0.6]
    assert win_rate(ours, theirs, seed=3) == win_rate(ours, theirs, seed=3)
    intervals = {win_rate(ours, theirs, seed=seed, num_resamples=7).interval for seed in range(20)}
    assert len(intervals) > 1


def test_one_outcome_everywhere_gives_an_interval_without_width() -> None:
    assert win_rate([1.0] * 5, [0.0] * 5, seed=0).interval == (1.0, 1.0)
    assert win_rate([1.0] * 5, [1.0] * 5, seed=0).interval == (0.5, 0.5)


@given(paired_scores, st.integers(0, 2**63 - 1))
def test_win_rate_lies_in_its_ranges(pairs: list[tuple[float, float]], seed: int) -> None:
    ours, theirs = zip(*pairs, strict=True)
    result = win_rate(ours, theirs, seed=seed, num_resamples=50)
    assert result.wins + result.ties + result.losses == len(pairs)
    assert 0.0 <= result.interval.low <= result.interval.high <= 1.0
    assert result.win_rate == pytest.approx(1.0 - win_rate(theirs, ours, seed=seed, num_resamples=50).win_rate)


@given(paired_scores)
def test_only_the_order_of_scores_matters(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    cubes = [score**3 for score in ours], [score**3 for score in theirs]
    assert win_rate(ours, theirs, seed=1, num_resamples=50) == win_rate(*cubes, seed=1, num_resamples=50)


def test_the_bootstrap_matches_drawing_prompts_with_replacement() -> None:
    outcomes = [1.0] * 30 + [0.5] * 10 + [0.0] * 20
    generator = random.Random(0)
    drawn = sorted(sum(generator.choices(outcomes, k=60)) / 60 for _ in range(4000))
    by_hand = drawn[int(0.025 * 4000)], drawn[int(0.975 * 4000)]
    interval = win_rate(outcomes, [0.5] * 60, seed=0, num_resamples=4000).interval
    assert interval == pytest.approx(by_hand, abs=0.01)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 400 studies of 80 prompts each, true win rate 0.6: 95 % nominal, standard error of the share about 1.1 points.
    generator = random.Random(20)
    num_covered = 0
    for study in range(400):
        scores = [float(generator.random() < 0.6) for _ in range(80)]
        low, high = win_rate(scores, [0.5] * 80, seed=study, num_resamples=500).interval
        num_covered += low <= 0.6 <= high
    assert 0.91 <= num_covered / 400 <= 0.98


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    scores = [float(position % 3) for position in range(30)]
    narrow = win_rate(scores, [1.0] * 30, seed=0, confidence=0.5).interval
    wide = win_rate(scores, [1.0] * 30, seed=0, confidence=0.99).interval
    assert wide.low < narrow.low <= narrow.high < wide.high


@pytest.mark.parametrize(
    ("ours", "theirs", "settings", "message"),
    [
        ([], [], {}, "there is no score"),
        ([1.0], [1.0, 2.0], {}, "paired by prompt, but there are 1 and 2"),
        ([1.0, 2.0], [1.0], {}, "paired by prompt, but there are 2 and 1"),
        ([math.nan], [1.0], {}, "^scores must be finite"),
        ([1.0, math.nan], [1.0, 1.0], {}, "^scores must be finite"),
        ([1.0], [math.inf], {}, "^opponent scores must be finite"),
        ([1.0, 1.0], [math.inf, 1.0], {}, "^opponent scores must be finite"),
        ([1.0], [1.0], {"num_resamples": 0}, "num_resamples must be at least 1"),
        ([1.0], [1.0], {"confidence": 1.0}, "confidence above 0 and below 1"),
        ([1.0], [1.0], {"confidence": 0.0}, "confidence above 0 and below 1"),
    ],
)
def test_win_rate_refuses_what_has_no_answer(
    ours: list[float], theirs: list[float], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        win_rate(ours, theirs, seed=0, **settings)  # type: ignore[arg-type]


def test_one_resample_is_enough_for_an_interval() -> None:
    low, high = win_rate([1.0, 0.0, 1.0], [0.0, 1.0, 0.0], seed=0, num_resamples=1).interval
    assert low == high


def test_pair_accuracy_counts_a_tie_half() -> None:
    assert pair_accuracy([2.0, -1.0, 0.0, 3.0]) == (0.625, 1.0, 4)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_swapping_the_responses_mirrors_the_accuracy(margins: list[float]) -> None:
    forward, backward = pair_accuracy(margins), pair_accuracy([-margin for margin in margins])
    assert forward.accuracy == pytest.approx(1.0 - backward.accuracy)
    assert forward.margin == pytest.approx(-backward.margin)


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        ([], "there is no margin"),
        ([math.nan], "^margins must be finite"),
        ([1.0, -math.inf], "^margins must be finite"),
    ],
)
def test_pair_accuracy_refuses_nothing_and_non_finite_margins(margins: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_accuracy(margins)
