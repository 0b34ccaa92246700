"""Holds a policy at some KL to the reference: the weight of the KL follows what each step measures.

With K the mean KL of a step's responses of the policy and T the target, both in nats, the next step weighs its KL with

    a = w · min(max(K/T, 0.01), 4)       proportional: the further away, the harder it is pulled back
    w ← w · exp(0.02 · d)                integral: at rest K is T, whatever weight that takes

with d = log K/T, at most 1. Far below T, where log K/T is less than −1, a policy is on its way and no weight holds it:
d is −0.1 there, and w stays within a hundredth and a hundred times where it began, so that some is left on arrival.

This is the multiplier of a constraint under proportional and integral control (Stooke et al. 2020, arXiv:2007.03964),
in logarithms, because the KL that a weight leads to is about inversely proportional to it. The adaptive KL penalty of
Ziegler et al. 2019 (arXiv:1909.08593) is integral alone: a KL answers its weight some tens of steps later, and swings.
"""

from __future__ import annotations

import math
from typing import NamedTuple

LEAST, MOST = 0.01, 4.0
"""Bounds of a / w, so that a step neither loses its KL nor consists of it."""
GAIN = 0.02
MOST_ERROR, FAR_BELOW = 1.0, -0.1
"""Of d: the most, and what it is far below T."""
MOST_MOVED = 100.0
"""Of w, from where it began."""


class KlControl(NamedTuple):
    """Where the control stands.

    Args:
        begun: w at the beginning.
        weight: w.
        coefficient: a, which the next step weighs its KL with.
    """

    begun: float
    weight: float
    coefficient: float

    def after(self, kl: float, target: float) -> KlControl:
        """Where it stands after a step.

        Args:
            kl: K, a finite number, at least 0 up to rounding.
            target: T, above 0.
        """
        ratio = max(kl / target, LEAST)
        error = min(math.log(ratio), MOST_ERROR)
        moved = self.weight * math.exp(GAIN * (error if error >= -MOST_ERROR else FAR_BELOW))
        weight = min(max(moved, self.begun / MOST_MOVED), self.begun * MOST_MOVED)
        return KlControl(self.begun, weight, weight * min(ratio, MOST))


def begin(coefficient: float) -> KlControl:
    """The control before its first step, which weighs its KL with the coefficient, above 0."""
    return KlControl(coefficient, coefficient, coefficient)
