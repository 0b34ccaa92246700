"""How far two people agree who have judged the same pairs: the share of equal verdicts, and Cohen's kappa.

    κ = (p_o − p_e) / (1 − p_e),   p_o = Σ_k n_kk / n,   p_e = Σ_k (n_k· / n) (n_·k / n)

n_kl is how often the one said k where the other said l. p_e is how often they would agree if each said what they say as
often as they do, and knew nothing of the pair: κ is 1 where they always agree and 0 where they agree as often as that.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from align_cli.metrics.preference import Interval, check_settings, percentile_interval


class Agreement(NamedTuple):
    """Of two people on the same items.

    Args:
        num_items: how many both have judged.
        agreement: the share of equal verdicts.
        interval: of that share.
        kappa: Cohen's; None where both have said one and the same of every item, of which it says nothing.
        kappa_interval: likewise.
    """

    num_items: int
    agreement: float
    interval: Interval
    kappa: float | None
    kappa_interval: Interval | None


def agreement(
    said: Sequence[Hashable],
    others_said: Sequence[Hashable],
    *,
    seed: int,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Agreement:
    """The share of items of which two people say the same, and Cohen's kappa, with bootstrap intervals over items.

    The intervals are the percentile bootstrap. Drawing n items with replacement is drawing the counts of their table of
    verdicts from Multinomial(n, n_kl / n). Resamples of which kappa says nothing are left out of its interval. Where
    every item has the same outcome, an interval has no width; it is then no statement of certainty.

    Args:
        said: n verdicts, in any categories. Which answer of a pair is called the first must not depend on who judges.
        others_said: the other's, of the same items in the same order.
        seed: at least 0; equal arguments give equal intervals (under one numpy version).
        num_resamples: bootstrap resamples, at least 1.
        confidence: the intervals' nominal coverage, above 0 and below 1.

    Returns:
        The agreement in [0, 1] and kappa in [−1, 1]; swapping the two people changes neither.

    Raises:
        ValueError: if the lists differ in length or are empty, or a setting is out of range.

    Source: Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20 (1960);
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if len(said) != len(others_said) or not said:
        raise ValueError(f"verdicts are paired by item, but there are {len(said)} and {len(others_said)}")
    check_settings(num_resamples, confidence)
    table_KK = _table(said, others_said)
    shares = table_KK.ravel() / len(said)
    drawn_RKK = np.random.default_rng(seed).multinomial(len(said), shares, size=num_resamples)
    tables_RKK = np.concatenate([table_KK[None], drawn_RKK.reshape(-1, *table_KK.shape)]) / len(said)
    observed_R = np.trace(tables_RKK, axis1=1, axis2=2)
    expected_R = (tables_RKK.sum(2) * tables_RKK.sum(1)).sum(1)
    is_known_R = expected_R < 1.0 - 1e-12
    kappas = (observed_R[is_known_R] - expected_R[is_known_R]) / (1.0 - expected_R[is_known_R])
    is_known = bool(is_known_R[0] and is_known_R[1:].any())
    return Agreement(
        len(said),
        float(observed_R[0]),
        percentile_interval(observed_R[1:], confidence),
        float(kappas[0]) if is_known else None,
        percentile_interval(kappas[1:], confidence) if is_known else None,
    )


def _table(said: Sequence[Hashable], others_said: Sequence[Hashable]) -> np.ndarray:
    """How often the one said this where the other said that; rows are the one's."""
    places = {verdict: place for place, verdict in enumerate(dict.fromkeys([*said, *others_said]))}
    table_KK = np.zeros((len(places), len(places)), dtype=np.int64)
    for one, other in zip(said, others_said, strict=True):
        table_KK[places[one], places[other]] += 1
    return table_KK
