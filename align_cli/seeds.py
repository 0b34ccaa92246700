"""Coordinates to seeds.

Every random choice of a run is drawn from a generator whose seed derives from where the choice stands (run seed,
round, stage, prompt, sample), never from what was drawn before it. So an interrupted run and an uninterrupted one
draw the same numbers, whatever the batch size.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Collection

Coordinate = int | str


def derive_seed(run_seed: int, *coordinates: Coordinate) -> int:
    """A 63-bit seed for one place in a run.

    Distinct coordinates give independent seeds (SHA-256 of their unambiguous text form).

    Args:
        run_seed: the recipe's `seed`.
        coordinates: integers and names, from the coarse to the fine, such as `(3, "generate", 17, 0)`.

    Returns:
        An integer in [0, 2**63).
    """
    text = "\x1f".join([str(run_seed), *(f"{type(part).__name__}:{part}" for part in coordinates)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seeded_order(length: int, run_seed: int, *coordinates: Coordinate) -> list[int]:
    """A random permutation of `range(length)` that depends on nothing but the coordinates."""
    return list(compact_order(length, run_seed, *coordinates))


def compact_order(length: int, run_seed: int, *coordinates: Coordinate) -> array[int]:
    """The same permutation in four bytes a number, for what is as long as a data set."""
    order = array("I", range(length))
    random.Random(derive_seed(run_seed, *coordinates)).shuffle(order)
    return order


def seeded_cycle(
    length: int,
    start: int,
    count: int,
    run_seed: int,
    *coordinates: Coordinate,
    left_out: Collection[int] = frozenset(),
) -> list[int]:
    """Positions `start` to `start + count` of an endless walk through `range(length)`.

    Each pass over the range is a fresh permutation, so none repeats before all were seen. What is left out is passed
    over: the others come in the order in which they would come with it.

    Raises:
        ValueError: if nothing is left to walk through, and `count` is not 0.
    """
    num_left = length - len(left_out)
    if count and not num_left:
        raise ValueError("cannot walk through an empty range")
    orders: dict[int, array[int]] = {}
    walked = []
    for position in range(start, start + count):
        lap, offset = divmod(position, num_left)
        if lap not in orders:
            order = compact_order(length, run_seed, *coordinates, lap)
            orders[lap] = array("I", (place for place in order if place not in left_out)) if left_out else order
        walked.append(orders[lap][offset])
    return walked
