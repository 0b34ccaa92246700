"""What a policy gains for how far it goes from its reference: the reward-KL frontier.

A run is a path of evaluations, one a round, from the initial policy on. Methods are compared at equal KL: one that goes
further gains more, whatever it is worth.

Between two evaluations a run is taken to go straight in √KL, the distance of Gao et al. (arXiv:2210.10760), in which
what is gained is linear at first: a policy tilted towards a reward of standard deviation σ gains σ √(2 KL) to first
order. Inside the first stretch, from the beginning to the first evaluation, it was measured to be too high for policies
that go far there, by 3 to 7 points of win rate on the playground, where straight in KL is 0 to 1.6 too high; for others
it is about right (LOG.md). So what is read off there is told apart: `is_inside_first_stretch`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple


class Point(NamedTuple):
    """An evaluation: KL to the reference in nats, at least 0, and what was gained, in any unit."""

    kl: float
    value: float


def value_at(path: Sequence[Point], kl: float) -> float | None:
    """What a run had gained when it first came to this KL.

        value = v_k + (√kl − √KL_k) / (√KL_{k+1} − √KL_k) · (v_{k+1} − v_k) on the first stretch that holds kl

    Args:
        path: its evaluations in the order of its rounds.
        kl: nats.

    Returns:
        The interpolated value; None where the run begins beyond this KL or never comes so far.
    """
    if not path or path[0].kl > kl:
        return None
    for here, following in pairwise(path):
        if here.kl <= kl <= following.kl:
            return _between(here, following, kl)
    return path[0].value if path[0].kl == kl else None


def is_inside_first_stretch(path: Sequence[Point], kl: float) -> bool:
    """Whether a run first came to this KL before its first evaluation after the beginning: it was not measured there.

    Args:
        path: its evaluations in the order of its rounds.
        kl: nats.
    """
    return len(path) > 1 and path[0].kl < kl < path[1].kl


def best_within(path: Sequence[Point], kl: float) -> float | None:
    """The most that a run had gained anywhere on its path at no more than this KL.

        E(kl) = max { value : (KL, value) on the path, KL ≤ kl }

    A stretch rises or falls all along, so its maximum lies at an end of the part that is within: at an evaluation, or
    at kl itself.

    Args:
        path: its evaluations in the order of its rounds.
        kl: nats.

    Returns:
        The value; None where no part of the path is within.
    """
    found = [point.value for point in path if point.kl <= kl]
    for here, following in pairwise(path):
        if min(here.kl, following.kl) <= kl < max(here.kl, following.kl):
            found.append(_between(here, following, kl))
    return max(found, default=None)


def best_of_paths(paths: Iterable[Sequence[Point]], kl: float) -> float | None:
    """The most that any of several runs had gained at no more than this KL, as of a sweep over weights of KL.

    It is a maximum over noisy evaluations, and so too high by some: by as much for every method whose sweep has as many
    runs, and by more for one that has more.
    """
    return max((found for path in paths if (found := best_within(path, kl)) is not None), default=None)


def envelope(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats: each gains more than all that are as near to the reference or nearer.

    Args:
        points: in any order.

    Returns:
        Those points by KL, values rising strictly.
    """
    found: list[Point] = []
    for point in sorted(points, key=lambda one: (one.kl, -one.value)):
        if not found or point.value > found[-1].value:
            found.append(point)
    return found


def common_kl(path: Sequence[Point], other: Sequence[Point]) -> float | None:
    """The largest KL that both of two runs came to; None where one of them has no evaluation."""
    if not path or not other:
        return None
    return min(max(point.kl for point in path), max(point.kl for point in other))


def _between(here: Point, following: Point, kl: float) -> float:
    if following.kl == here.kl:
        return max(here.value, following.value)
    begin, end, distance = (math.sqrt(max(one, 0.0)) for one in (here.kl, following.kl, kl))
    share = (distance - begin) / (end - begin) if end != begin else 1.0
    return here.value + share * (following.value - here.value)
