"""Means over the seeds of a study, and paired differences, with intervals by Student's t.

Runs are few, so their spread is as uncertain as their mean: the quantile is t's and not the normal's. What an interval
covers is another draw of seeds under the same recipe, data and held-out prompts; it says nothing of other prompts, for
which each evaluation has its own (`align_cli.metrics.preference`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from align_cli.metrics.estimates import estimate


class OverSeeds(NamedTuple):
    """A mean over seeds.

    Args:
        mean: of the values, in their unit.
        low: the interval's lower end; None where one seed shows no spread.
        high: likewise.
        num_seeds: how many values there are.
    """

    mean: float
    low: float | None
    high: float | None
    num_seeds: int


def mean_over_seeds(values: Sequence[float], *, confidence: float = 0.95) -> OverSeeds:
    """The mean of independent runs and its confidence interval.

        mean ± t(n − 1, (1 + confidence) / 2) · s / √n,   s² = Σ (v_i − mean)² / (n − 1)

    Its coverage is exact for normal values, and close to it for means over hundreds of prompts.

    Args:
        values: n finite numbers, one a seed, n at least 1.
        confidence: the nominal coverage, above 0 and below 1.

    Raises:
        ValueError: if there is no value, one is not finite, or `confidence` is out of range.

    Source: Student, The probable error of a mean (1908).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError("confidence must be above 0 and below 1")
    found = estimate(values)
    if len(values) == 1:
        return OverSeeds(found.mean, None, None, 1)
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, (1.0 + confidence) / 2.0)) * found.standard_error
    return OverSeeds(found.mean, found.mean - half, found.mean + half, len(values))


def paired_difference(
    values: Mapping[int, float], others: Mapping[int, float], *, confidence: float = 0.95
) -> OverSeeds | None:
    """How much the values lie above the others, over the seeds that both have.

        d_s = values_s − others_s, and the mean of the d_s with its interval

    What two runs of a seed share (the initial policy, the data, the held-out prompts) cancels in d_s.

    Args:
        values: by seed.
        others: by seed.
        confidence: the nominal coverage, above 0 and below 1.

    Returns:
        The mean difference; None where no seed is in both.

    Raises:
        ValueError: as `mean_over_seeds`.

    Source: the paired t-test (Student, 1908); Dror et al., The hitchhiker's guide to testing statistical significance
        in natural language processing (2018).
    """
    differences = [value - others[seed] for seed, value in sorted(values.items()) if seed in others]
    return mean_over_seeds(differences, confidence=confidence) if differences else None
