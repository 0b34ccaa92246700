"""Two policies on the same prompts: how much more often one wins than the other, and how far to trust that.

What a prompt has of its own (hard or easy, long or short) is in both outcomes and cancels in their difference, so the
interval is narrower than those of the two win rates would have it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from align_cli.metrics.preference import Interval, check_settings, interval_of_counts


class Difference(NamedTuple):
    """A difference of two win rates, in [−1, 1], with its interval over prompts."""

    difference: float
    interval: Interval


def win_rate_difference(
    outcomes: Sequence[float],
    other_outcomes: Sequence[float],
    *,
    seed: int,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Difference:
    """How much the first win rate lies above the second, with a paired bootstrap over prompts.

        difference = Σ (o_i − p_i) / n

    A resample draws n prompts with replacement, each with both of its outcomes; the interval is the percentile one. The
    prompts whose differences are equal are drawn together, which is the same distribution.

    Args:
        outcomes: n numbers in [0, 1], one a prompt: 1 for a win, ½ for a tie, 0 for a loss.
        other_outcomes: the other policy's on the same prompts, in the same order.
        seed: at least 0; equal arguments give equal intervals (under one numpy version).
        num_resamples: bootstrap resamples, at least 1.
        confidence: the interval's nominal coverage, above 0 and below 1.

    Raises:
        ValueError: if the lists differ in length or are empty, an outcome is out of range, or a setting is.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; paired by prompt as in Koehn,
        Statistical significance tests for machine translation evaluation (2004).
    """
    if not outcomes or len(outcomes) != len(other_outcomes):
        raise ValueError(f"outcomes are paired by prompt, but there are {len(outcomes)} and {len(other_outcomes)}")
    if not all(0.0 <= outcome <= 1.0 for outcome in (*outcomes, *other_outcomes)):
        raise ValueError("an outcome must be at least 0 and at most 1")
    check_settings(num_resamples, confidence)
    differences = [one - other for one, other in zip(outcomes, other_outcomes, strict=True)]
    values, counts = zip(*sorted(Counter(differences).items()), strict=True)
    interval = interval_of_counts(values, counts, seed, num_resamples, confidence)
    return Difference(math.fsum(differences) / len(differences), interval)
