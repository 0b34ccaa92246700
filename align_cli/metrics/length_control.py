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

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from align_cli.metrics.preference import Interval, percentile_interval

RIDGE = 1e-9
"""Weight of (a² + b²) / 2 beside the mean negative log-likelihood: it moves no estimate in a digit that is shown, and
keeps one finite where length alone decides every outcome."""

MOST_STEPS = 100
LARGEST_STEP = 2.0
"""Of a or b in a step of Newton's method: farther out the logistic function is flat, and a full step overshoots."""


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
    draws = np.random.default_rng(seed).multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), num_resamples)
    weights_RN = np.concatenate([np.ones((1, num_prompts)), draws])
    intercepts_R, slopes_R = _fit(outcomes_N, differences_N, weights_RN)
    win_rates_R = _sigmoid(intercepts_R)
    interval = percentile_interval(win_rates_R[1:], confidence)
    return LengthControlled(float(win_rates_R[0]), interval, float(slopes_R[0]))


def _fit(outcomes_N: np.ndarray, differences_N: np.ndarray, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a and b for each row of weights, each a resample of the N prompts, by Newton's method."""
    shares_RN = weights_RN / weights_RN.sum(axis=1, keepdims=True)
    features_RN = np.tanh(differences_N / _deviations(differences_N, weights_RN)[:, None])
    intercepts_R = np.zeros(len(weights_RN))
    slopes_R = np.zeros(len(weights_RN))
    for _ in range(MOST_STEPS):
        fitted_RN = _sigmoid(intercepts_R[:, None] + slopes_R[:, None] * features_RN)
        residuals_RN = shares_RN * (outcomes_N - fitted_RN)
        gradient_a_R = residuals_RN.sum(axis=1) - RIDGE * intercepts_R
        gradient_b_R = (residuals_RN * features_RN).sum(axis=1) - RIDGE * slopes_R
        curvature_RN = shares_RN * fitted_RN * (1 - fitted_RN)
        aa_R = curvature_RN.sum(axis=1) + RIDGE
        ab_R = (curvature_RN * features_RN).sum(axis=1)
        bb_R = (curvature_RN * features_RN**2).sum(axis=1) + RIDGE
        determinant_R = aa_R * bb_R - ab_R**2
        step_a_R = np.clip((bb_R * gradient_a_R - ab_R * gradient_b_R) / determinant_R, -LARGEST_STEP, LARGEST_STEP)
        step_b_R = np.clip((aa_R * gradient_b_R - ab_R * gradient_a_R) / determinant_R, -LARGEST_STEP, LARGEST_STEP)
        intercepts_R, slopes_R = intercepts_R + step_a_R, slopes_R + step_b_R
        if max(np.abs(step_a_R).max(), np.abs(step_b_R).max()) < 1e-10:
            break
    return intercepts_R, slopes_R


def _deviations(differences_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """The standard deviation, with Bessel's n − 1, of each resample; infinite where all differences are equal."""
    count = weights_RN.sum(axis=1)
    means_R = weights_RN @ differences_N / count
    squares_R = (weights_RN * (differences_N - means_R[:, None]) ** 2).sum(axis=1)
    drawn_RN = np.where(weights_RN > 0, differences_N, np.nan)
    are_equal_R = np.nanmax(drawn_RN, axis=1) == np.nanmin(drawn_RN, axis=1)
    return np.where(are_equal_R, np.inf, np.sqrt(squares_R / np.maximum(count - 1, 1)))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -values))
