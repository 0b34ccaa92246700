"""A mean and how far to trust it: lengths, KL, rewards, seeds of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """A sample mean and its standard error, both in the unit of the values."""

    mean: float
    standard_error: float


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values and the standard error of that mean.

        mean = Σ v_i / n,   standard error = sqrt( Σ (v_i − mean)² / (n − 1) / n )

    One value shows no spread: its standard error is given as 0.0, not as NaN, so that it can be stored as JSON. Who
    shows an estimate of one value should show no error bar.

    Args:
        values: n finite numbers, n at least 1; booleans count as 0 and 1.

    Returns:
        The mean, between the least and the greatest value, and the standard error, at least 0.

    Raises:
        ValueError: if `values` is empty or holds a NaN or an infinity.

    Source: the usual unbiased variance (Bessel's n − 1), divided by n.
    """
    num_values = len(values)
    if not num_values:
        raise ValueError("an estimate needs at least one value")
    if not all(map(math.isfinite, values)):
        raise ValueError("an estimate needs finite values")
    lowest, highest = float(min(values)), float(max(values))
    # Rounding can push the quotient one step outside the range of the values (three times 0.1, say).
    mean = min(max(math.fsum(values) / num_values, lowest), highest)
    if num_values == 1:
        return Estimate(mean, 0.0)
    variance = math.fsum((value - mean) ** 2 for value in values) / (num_values - 1)
    return Estimate(mean, math.sqrt(variance / num_values))
