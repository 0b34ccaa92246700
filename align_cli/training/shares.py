"""Which pairs of a step's batch each process takes: as many as any other, and about as many tokens.

Pairs of a prompt stay together where that is possible, since a model reads their prompt once. What the step does to
the weights does not depend on it: all that is of the batch is found over all processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from align_cli.training.batches import TrainingPair


def share_of(batch: Sequence[TrainingPair], rank: int, number: int) -> list[TrainingPair]:
    """The pairs of one process, in the batch's order.

    The costliest prompts are dealt first, each to the process that has least to do so far; a prompt with more pairs
    than that has room for goes on with the next.

    Args:
        batch: the global batch, the pairs of a prompt one after the other.
        rank: of the process.
        number: of processes, which divides the batch.
    """
    room = [len(batch) // number] * number
    load = [0] * number
    shares: list[list[int]] = [[] for _ in range(number)]
    for group in sorted(_prompts(batch), key=lambda group: -sum(_cost(batch[index]) for index in group)):
        left = group
        while left:
            taker = min((one for one in range(number) if room[one]), key=lambda one: (load[one], one))
            taken, left = left[: room[taker]], left[room[taker] :]
            shares[taker] += taken
            room[taker] -= len(taken)
            load[taker] += sum(_cost(batch[index]) for index in taken)
    return [batch[index] for index in sorted(shares[rank])]


def _prompts(batch: Sequence[TrainingPair]) -> list[list[int]]:
    """The places of the pairs of each prompt."""
    groups = groupby(range(len(batch)), key=lambda index: (batch[index].source, batch[index].prompt_id))
    return [list(places) for _, places in groups]


def _cost(pair: TrainingPair) -> int:
    """Tokens that a model reads for it."""
    return len(pair.prompt_ids) + sum(map(len, (pair.chosen_ids, pair.rejected_ids, *pair.other_ids)))
