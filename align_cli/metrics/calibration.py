"""How well a reward model knows what it does not know: accuracy, log loss and calibration on labelled pairs.

Of each pair there is the margin h = r(chosen) − r(rejected), and a label q, the probability that the chosen one is the
better one, above one half. By Bradley and Terry the model says σ(h).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from align_cli.metrics.preference import Interval, check_settings, percentile_interval


class Bin(NamedTuple):
    """The pairs about which a model is about equally sure.

    Args:
        low: the least confidence of the bin, included.
        high: the most; excluded but in the last bin.
        num_pairs: how many pairs fall in it.
        confidence: their mean confidence; the middle of the bin where it is empty.
        accuracy: the share of them that it orders rightly; 0.0 where it is empty.
    """

    low: float
    high: float
    num_pairs: int
    confidence: float
    accuracy: float


class Calibration(NamedTuple):
    """The expected calibration error, and the table that it comes from."""

    error: float
    bins: list[Bin]


def log_loss(margins: Sequence[float], labels: Sequence[float]) -> float:
    """The mean negative log-likelihood of the labels, in nats a pair; ln 2 for a model that says nothing.

        −Σ [ q_i log σ(h_i) + (1 − q_i) log σ(−h_i) ] / n

    Args:
        margins: n finite numbers.
        labels: n numbers in [0, 1].

    Raises:
        ValueError: if the lists differ in length, are empty, or hold what they must not.

    Source: Bradley and Terry (1952); the loss of arXiv:2203.02155, Eq. 1.
    """
    margins_N, labels_N = _checked(margins, labels)
    losses_N = labels_N * np.logaddexp(0.0, -margins_N) + (1 - labels_N) * np.logaddexp(0.0, margins_N)
    return float(losses_N.mean())


def outcomes_of(margins: Sequence[float], labels: Sequence[float]) -> list[float]:
    """What each pair's order is worth: q where h > 0, 1 − q where h < 0, one half where h is 0.

    With hard labels, q = 1, that is 1 for a pair in the labelled order and 0 for another.

    Raises:
        ValueError: as `log_loss`.
    """
    margins_N, labels_N = _checked(margins, labels)
    outcomes: list[float] = np.where(margins_N > 0, labels_N, np.where(margins_N < 0, 1 - labels_N, 0.5)).tolist()
    return outcomes


def calibration(margins: Sequence[float], labels: Sequence[float], num_bins: int = 5) -> Calibration:
    """How far confidence and accuracy are apart, on average.

        c_i = σ(|h_i|),   ECE = Σ_b (n_b / n) · |accuracy_b − mean confidence_b|

    Which of a pair stands first says nothing, so a pair's confidence is that of the order that the model prefers: from
    one half to 1, which the bins cut into equal parts.

    Args:
        margins: n finite numbers.
        labels: n numbers in [0, 1].
        num_bins: at least 1.

    Returns:
        The error in [0, 1], and one bin for each part, empty ones too.

    Raises:
        ValueError: as `log_loss`, or if there is no bin.

    Source: Guo et al. (2017), arXiv:1706.04599, Eq. 3, on confidences that begin at one half.
    """
    if num_bins < 1:
        raise ValueError("there must be at least one bin")
    outcomes_N = np.asarray(outcomes_of(margins, labels))
    confidences_N = 1 / (1 + np.exp(-np.abs(np.asarray(margins, dtype=np.float64))))
    width = 0.5 / num_bins
    places_N = np.minimum(((confidences_N - 0.5) / width).astype(int), num_bins - 1)
    bins = []
    for number in range(num_bins):
        low, inside_N = 0.5 + number * width, places_N == number
        count = int(inside_N.sum())
        confidence = float(confidences_N[inside_N].mean()) if count else low + width / 2
        accuracy = float(outcomes_N[inside_N].mean()) if count else 0.0
        bins.append(Bin(low, low + width, count, confidence, accuracy))
    error = math.fsum(one.num_pairs * abs(one.accuracy - one.confidence) for one in bins) / len(outcomes_N)
    return Calibration(error, bins)


def grouped_interval(
    values: Sequence[float],
    groups: Sequence[Hashable],
    *,
    seed: int,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """The percentile bootstrap of a mean over groups: pairs of one prompt are drawn together, as they err together.

    Args:
        values: n finite numbers.
        groups: the group of each, as its prompt.
        seed: at least 0; equal arguments give equal intervals (under one numpy version).
        num_resamples: bootstrap resamples, at least 1.
        confidence: the interval's nominal coverage, above 0 and below 1.

    Raises:
        ValueError: if the lists differ in length or are empty, or a setting is out of range.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 8.
    """
    if len(values) != len(groups) or not values:
        raise ValueError(f"there are {len(values)} values and {len(groups)} groups")
    check_settings(num_resamples, confidence)
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    sums_G, counts_G = np.zeros(len(places)), np.zeros(len(places))
    for value, group in zip(values, groups, strict=True):
        sums_G[places[group]] += value
        counts_G[places[group]] += 1
    num_groups = len(places)
    draws_RG = np.random.default_rng(seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), num_resamples)
    return percentile_interval((draws_RG @ sums_G) / (draws_RG @ counts_G), confidence)


def _checked(margins: Sequence[float], labels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    margins_N, labels_N = np.asarray(margins, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if margins_N.shape != labels_N.shape or not margins_N.size:
        raise ValueError(f"there are {margins_N.size} margins and {labels_N.size} labels")
    if not np.isfinite(margins_N).all() or not ((labels_N >= 0) & (labels_N <= 1)).all():
        raise ValueError("margins must be finite, and labels at least 0 and at most 1")
    return margins_N, labels_N
