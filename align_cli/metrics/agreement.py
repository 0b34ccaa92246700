"""How far two labelers agree."""

from __future__ import annotations

import math
from collections.abc import Sequence


def agreement(margins: Sequence[float], other_margins: Sequence[float]) -> float:
    """Share of pairs that two labelers put in the same order.

        agreement = Σ a_i / n,   a_i = 1 − |sign(h_i) − sign(h'_i)| / 2

    So a pair counts 1 where both prefer the same response or both see a tie, ½ where only one sees a tie, and 0 where
    they prefer different ones. It is not corrected for chance: two coins agree on half of the pairs.

    Args:
        margins: n finite margins, s(y1) − s(y2) of one labeler, in any unit.
        other_margins: the other labeler's margins on the same pairs, in any unit.

    Returns:
        A number in [0, 1], the same for both orders of the arguments.

    Raises:
        ValueError: if the lengths differ, there is no pair, or a margin is not finite.
    """
    if len(margins) != len(other_margins):
        raise ValueError(f"margins are paired, but there are {len(margins)} and {len(other_margins)}")
    if not len(margins):
        raise ValueError("there is no pair")
    if not all(map(math.isfinite, [*margins, *other_margins])):
        raise ValueError("a margin is not finite")
    distances = (abs(_sign(one) - _sign(other)) for one, other in zip(margins, other_margins, strict=True))
    return 1.0 - sum(distances) / 2.0 / len(margins)


def _sign(number: float) -> int:
    return int(number > 0) - int(number < 0)
