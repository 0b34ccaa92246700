"""Who wins: win rate against an opponent, and how well margins order pairs.

The interval is over prompts only. It says nothing of the spread between training seeds, which is often larger:
give `align_cli.metrics.estimates.estimate` the win rates of several seeds for that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


class WinRate(NamedTuple):
    """Share of prompts won, its interval, and the counts behind it; the counts sum to the number of prompts."""

    win_rate: float
    interval: Interval
    wins: int
    ties: int
    losses: int


class PairAccuracy(NamedTuple):
    """Share of pairs in the labelled order, the mean margin, and the number of pairs."""

    accuracy: float
    margin: float
    num_pairs: int


def win_rate(
    scores: Sequence[float],
    opponent_scores: Sequence[float],
    *,
    seed: int,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> WinRate:
    """How often the first of two paired scores is the higher one, with a bootstrap interval over prompts.

        win rate = (wins + ties / 2) / n

    The interval is the percentile bootstrap over prompts. A prompt's outcome is one of three (1, ½, 0), so drawing n
    prompts with replacement is drawing their counts from Multinomial(n, (wins, ties, losses) / n): the same
    distribution, without n × `num_resamples` draws. Where every prompt has the same outcome, the interval has no
    width; it is then no statement of certainty.

    Args:
        scores: n finite scores, one a prompt, in any unit; higher is better.
        opponent_scores: the opponent's scores on the same prompts, in the same order and unit.
        seed: at least 0; equal arguments give equal intervals (under one numpy version).
        num_resamples: bootstrap resamples, at least 1.
        confidence: the interval's nominal coverage, above 0 and below 1.

    Returns:
        The win rate and interval in [0, 1], and the counts. Swapping the players gives 1 − win rate.

    Raises:
        ValueError: if the lengths differ, there is no prompt, a score is not finite, or a setting is out of range.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    check_settings(num_resamples, confidence)
    if len(scores) != len(opponent_scores):
        raise ValueError(f"scores are paired by prompt, but there are {len(scores)} and {len(opponent_scores)}")
    _check_numbers(scores, "score")
    _check_numbers(opponent_scores, "opponent score")
    outcomes = [0.5 if one == other else float(one > other) for one, other in zip(scores, opponent_scores, strict=True)]
    return win_rate_of(outcomes, seed=seed, num_resamples=num_resamples, confidence=confidence)


def win_rate_of(
    outcomes: Sequence[float], *, seed: int, num_resamples: int = 2000, confidence: float = 0.95
) -> WinRate:
    """The mean of outcomes, one a prompt, with a bootstrap interval over prompts.

        win rate = Σ o_i / n

    An outcome may lie between a win, a tie and a loss: the share of a judge's votes, say. Such a one counts as a win
    where it is above one half, and as a loss below.

    Args:
        outcomes: n numbers in [0, 1]: 1 for a win, ½ for a tie, 0 for a loss.
        seed: at least 0; equal arguments give equal intervals (under one numpy version).
        num_resamples: bootstrap resamples, at least 1.
        confidence: the interval's nominal coverage, above 0 and below 1.

    Returns:
        The win rate and interval in [0, 1], and the counts.

    Raises:
        ValueError: if there is no outcome, one is out of range, or a setting is.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    _check_numbers(outcomes, "outcome")
    if not all(0.0 <= outcome <= 1.0 for outcome in outcomes):
        raise ValueError("an outcome must be at least 0 and at most 1")
    check_settings(num_resamples, confidence)
    wins = sum(bool(outcome > 0.5) for outcome in outcomes)
    losses = sum(bool(outcome < 0.5) for outcome in outcomes)
    interval = _bootstrap_interval(outcomes, seed, num_resamples, confidence)
    return WinRate(math.fsum(outcomes) / len(outcomes), interval, wins, len(outcomes) - wins - losses, losses)


def pair_accuracy(margins: Sequence[float]) -> PairAccuracy:
    """How often the margin of a pair agrees with its label.

        accuracy = (#{h_i > 0} + #{h_i = 0} / 2) / n,   margin = Σ h_i / n

    Args:
        margins: n finite margins h_i = s(chosen) − s(rejected), in any unit.

    Returns:
        The accuracy in [0, 1], the mean margin in the unit of the margins, and n.

    Raises:
        ValueError: if `margins` is empty or holds a NaN or an infinity.

    Source: the reward accuracy and reward margin of DPO training (arXiv:2305.18290). A tie counts half here, so
    that a policy equal to its reference scores ½; code that counts a tie as wrong gives it 0.
    """
    _check_numbers(margins, "margin")
    num_ordered = sum(bool(margin > 0) for margin in margins)
    num_ties = sum(bool(margin == 0) for margin in margins)
    return PairAccuracy((num_ordered + 0.5 * num_ties) / len(margins), math.fsum(margins) / len(margins), len(margins))


def _bootstrap_interval(outcomes: Sequence[float], seed: int, num_resamples: int, confidence: float) -> Interval:
    """Of outcomes that take few values, drawing prompts is drawing how many there are of each."""
    counts = Counter(map(float, outcomes))
    values = sorted({1.0, 0.5, 0.0, *counts}, reverse=True)
    return interval_of_counts(values, [counts[value] for value in values], seed, num_resamples, confidence)


def interval_of_counts(
    values: Sequence[float], counts: Sequence[int], seed: int, num_resamples: int, confidence: float
) -> Interval:
    """Of a mean, by drawing how many there are of each value; the order of the values decides the draws."""
    import numpy as np

    number = sum(counts)
    shares = np.asarray(counts, dtype=np.float64) / number
    resampled_counts = np.random.default_rng(seed).multinomial(number, shares, size=num_resamples)
    return percentile_interval(resampled_counts @ np.asarray(values) / number, confidence)


def percentile_interval(resampled: np.ndarray, confidence: float) -> Interval:
    """The interval that holds the middle share `confidence` of a bootstrap's values."""
    import numpy as np

    low, high = np.quantile(resampled, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return Interval(float(low), float(high))


def check_settings(num_resamples: int, confidence: float) -> None:
    """A ValueError for a bootstrap that cannot be."""
    if num_resamples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError("num_resamples must be at least 1, and confidence above 0 and below 1")


def _check_numbers(values: Sequence[float], name: str) -> None:
    if not len(values):
        raise ValueError(f"there is no {name}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{name}s must be finite, and one is not")
