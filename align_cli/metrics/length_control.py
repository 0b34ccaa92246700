"""The win rate that there would be at equal lengths: judges, and rewards, often like the longer answer for its length.

    P(win_i) = σ(a + b · tanh(d_i / sd(d))),   d_i = length_i − length of the opponent_i
    length-controlled win rate = σ(a)

The likelihood is that of outcomes in [0, 1], so a judge's shares of votes count as they are. It is AlpacaEval 2's form
(arXiv:2404.04475, Eq. 2, its `length_controlled_minimal`) with two departures: there is no term for an instruction's
difficulty, which would need the answers of other models to the same prompts; and the fit is the maximum of the
likelihood, where theirs chooses a lasso penalty by cross-validation, whose folds make the number depend on the order of
the prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from align_cli.metrics.preference import Interval, percentile_interval

RIDGE = 1e-9
"""Weight of (a² + b²) / 2 beside the mean negative log-likelihood: it moves no estimate in a digit that is shown, and
keeps one finite where length alone decides every outcome."""

MOST_STEPS = 200
SMALLEST_STEP = 1e-9
"""Of a and b: a smaller one ends the fit."""

LARGEST_BLOCK = 1 << 16
"""Outcomes that are fitted together, over all resamples: what a processor's cache holds."""


class LengthControlled(NamedTuple):
    """A win rate at equal lengths, its interval, and b: above 0 where the longer answer wins more often."""

    win_rate: float
    interval: Interval
    length_slope: float


def length_controlled_win_rate(
    outcomes: Sequence[float],
    lengths: Sequence[float],
    opponent_lengths: Sequence[float],
    *,
    seed: int,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> LengthControlled:
    """What the win rate would be if both answers to each prompt were equally long.

    The interval is the percentile bootstrap over prompts; each resample is standardised and fitted anew.

    Args:
        outcomes: n numbers in [0, 1]: 1 for a win, ½ for a tie, 0 for a loss.
        lengths: of the answers, in any unit.
        opponent_lengths: of the opponent's answers to the same prompts, in the same order and unit.
        seed: at least 0; equal arguments give equal intervals (under one numpy version).
        num_resamples: bootstrap resamples, at least 1.
        confidence: the interval's nominal coverage, above 0 and below 1.

    Returns:
        The win rate and interval in [0, 1], and the slope b. Swapping the players gives 1 − win rate and the same
        slope. Where all differences of length are equal, the plain win rate and a slope of 0.

    Raises:
        ValueError: if the lists differ in length or are empty, a number is not finite or an outcome is out of range, or
            a setting is.

    Source: Dubois et al., arXiv:2404.04475, section 3.
    """
    outcomes_N = np.asarray(outcomes, dtype=np.float64)
    differences_N = np.asarray(lengths, dtype=np.float64) - np.asarray(opponent_lengths, dtype=np.float64)
    if not outcomes_N.size or outcomes_N.shape != differences_N.shape:
        raise ValueError(f"there are {outcomes_N.size} outcomes and {differences_N.size} differences of length")
    if not np.isfinite(differences_N).all() or not ((outcomes_N >= 0) & (outcomes_N <= 1)).all():
        raise ValueError("lengths must be finite, and outcomes at least 0 and at most 1")
    if num_resamples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError("num_resamples must be at least 1, and confidence above 0 and below 1")
    num_prompts = outcomes_N.size
    whole_2 = _fit(outcomes_N, differences_N, np.ones((1, num_prompts)), np.zeros(2))[0]
    draws_RN = np.random.default_rng(seed).multinomial(
        num_prompts, np.full(num_prompts, 1 / num_prompts), num_resamples
    )
    num_blocks = math.ceil(draws_RN.size / LARGEST_BLOCK)
    blocks = np.array_split(draws_RN, min(num_blocks, num_resamples))
    fits_R2 = np.concatenate([_fit(outcomes_N, differences_N, block_RN, whole_2) for block_RN in blocks])
    interval = percentile_interval(_sigmoid(fits_R2[:, 0]), confidence)
    return LengthControlled(float(_sigmoid(whole_2[0])), interval, float(whole_2[1]))


def _fit(outcomes_N: np.ndarray, differences_N: np.ndarray, weights_RN: np.ndarray, start_2: np.ndarray) -> np.ndarray:
    """(a, b) for each row of weights, each a resample of the N prompts.

    Newton's method; a step that makes the likelihood smaller is halved.
    """
    shares_RN = weights_RN / weights_RN.sum(axis=1, keepdims=True)
    features_RN = np.tanh(differences_N / _deviations(differences_N, weights_RN)[:, None])
    fits_R2 = np.broadcast_to(start_2, (len(weights_RN), 2)).copy()
    left_R = np.arange(len(weights_RN))
    steps_R2, scales_R = np.zeros_like(fits_R2), np.ones(len(fits_R2))
    heights_R = np.full(len(fits_R2), -np.inf)
    for _ in range(MOST_STEPS):
        tried_R2 = fits_R2[left_R] + scales_R[left_R, None] * steps_R2[left_R]
        found = _quadratic(outcomes_N, features_RN[left_R], shares_RN[left_R], tried_R2)
        is_higher_R = found.heights_R >= heights_R[left_R]
        higher_R = left_R[is_higher_R]
        fits_R2[higher_R], heights_R[higher_R] = tried_R2[is_higher_R], found.heights_R[is_higher_R]
        steps_R2[higher_R], scales_R[higher_R] = found.steps_R2[is_higher_R], 1.0
        scales_R[left_R[~is_higher_R]] /= 2
        left_R = left_R[np.abs(scales_R[left_R, None] * steps_R2[left_R]).max(axis=1) > SMALLEST_STEP]
        if not left_R.size:
            break
    return fits_R2


class _Quadratic(NamedTuple):
    """The penalised mean log-likelihood at an (a, b) for each resample, and the step to its parabola's highest one."""

    heights_R: np.ndarray
    steps_R2: np.ndarray


def _quadratic(
    outcomes_N: np.ndarray, features_RN: np.ndarray, shares_RN: np.ndarray, fits_R2: np.ndarray
) -> _Quadratic:
    a_R1, b_R1 = fits_R2[:, :1], fits_R2[:, 1:]
    logits_RN = a_R1 + b_R1 * features_RN
    small_RN = np.exp(-np.abs(logits_RN))
    softplus_RN = np.maximum(logits_RN, 0.0) + np.log1p(small_RN)  # numpy's logaddexp takes eight times as long
    fitted_RN = np.where(logits_RN >= 0, 1.0, small_RN) / (1.0 + small_RN)
    heights_R = (shares_RN * (outcomes_N * logits_RN - softplus_RN)).sum(axis=1) - RIDGE / 2 * (fits_R2**2).sum(axis=1)
    residuals_RN = shares_RN * (outcomes_N - fitted_RN)
    gradient_a_R = residuals_RN.sum(axis=1) - RIDGE * fits_R2[:, 0]
    gradient_b_R = (residuals_RN * features_RN).sum(axis=1) - RIDGE * fits_R2[:, 1]
    curvature_RN = shares_RN * fitted_RN * (1 - fitted_RN)
    bent_RN = curvature_RN * features_RN
    aa_R, ab_R = curvature_RN.sum(axis=1) + RIDGE, bent_RN.sum(axis=1)
    bb_R = (bent_RN * features_RN).sum(axis=1) + RIDGE
    determinant_R = aa_R * bb_R - ab_R**2
    step_a_R = (bb_R * gradient_a_R - ab_R * gradient_b_R) / determinant_R
    step_b_R = (aa_R * gradient_b_R - ab_R * gradient_a_R) / determinant_R
    return _Quadratic(heights_R, np.stack([step_a_R, step_b_R], axis=1))


def _deviations(differences_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """The standard deviation, with Bessel's n − 1, of each resample; infinite where all differences are equal."""
    count_R = weights_RN.sum(axis=1)
    means_R = weights_RN @ differences_N / count_R
    squares_R = (weights_RN * (differences_N - means_R[:, None]) ** 2).sum(axis=1)
    drawn_RN = np.where(weights_RN > 0, differences_N, np.nan)
    are_equal_R = np.nanmax(drawn_RN, axis=1) == np.nanmin(drawn_RN, axis=1)
    return np.where(are_equal_R, np.inf, np.sqrt(squares_R / np.maximum(count_R - 1, 1)))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -values))
