"""Which pair stands in which batch: exact shares of every source, seeded orders, and the collator.

Everything is a function of the global step, so resuming needs no position but that one number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align_cli.models.scoring import pad_batch
from align_cli.seeds import seeded_cycle

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainingPair:
    """One pair as training sees it.

    Args:
        prompt_ids: token ids, not empty.
        chosen_ids: token ids, not empty.
        rejected_ids: token ids, not empty.
        label: probability in [0, 1] that `chosen` is the better one.
        source: position of the source in the mixture.
        pair_id: the same number for every use of the same pair, distinct within a source and round.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    label: float
    source: int
    pair_id: int


def batch_counts(shares: Sequence[float], batch_size: int, num_steps: int) -> list[list[int]]:
    """How many pairs of each source every batch holds.

    Each batch has exactly `batch_size` pairs. A share that gives no whole number is carried over: no batch, and no sum
    over the batches so far, is ever a whole pair away from the exact share.

    Args:
        shares: at least 0, summing to 1.
        batch_size: pairs in a global batch.
        num_steps: batches.

    Returns:
        One list of counts a batch, in the order of the sources.
    """
    owed = [0.0] * len(shares)
    counts = []
    for _ in range(num_steps):
        owed = [debt + share * batch_size for debt, share in zip(owed, shares, strict=True)]
        # The small number forgives rounding: 0.3 · 10 summed ten times must give 30, not 29.
        batch = [max(0, int(debt + 1e-6)) for debt in owed]
        by_remainder = sorted(range(len(shares)), key=lambda source: batch[source] - owed[source])
        for source in by_remainder[: batch_size - sum(batch)]:
            batch[source] += 1
        owed = [debt - count for debt, count in zip(owed, batch, strict=True)]
        counts.append(batch)
    return counts


class Mixture:
    """Draws the batches of a round from the pools of its sources.

    Args:
        shares: share of each source by name, in a fixed order; sums to 1.
        batch_size: pairs in a global batch.
        seed: the run's seed.
    """

    def __init__(self, shares: Mapping[str, float], batch_size: int, seed: int) -> None:
        self.shares = dict(shares)
        self.batch_size = batch_size
        self.seed = seed

    def round_batches(
        self, pools: Mapping[str, Sequence[TrainingPair]], round_number: int, steps_per_round: int
    ) -> list[list[TrainingPair]]:
        """The batches of one round.

        Offline pairs are walked through across rounds; a round's own pairs are walked through within the round. Both
        in fresh seeded orders, cycling when the steps need more than there are.

        Args:
            pools: pairs of each source; a source with a share must have some.
            round_number: from 1.
            steps_per_round: batches.

        Returns:
            `steps_per_round` lists of `batch_size` pairs.
        """
        steps_before = (round_number - 1) * steps_per_round
        counts = batch_counts(list(self.shares.values()), self.batch_size, steps_before + steps_per_round)
        batches: list[list[TrainingPair]] = [[] for _ in range(steps_per_round)]
        for source, name in enumerate(self.shares):
            used_before = sum(batch[source] for batch in counts[:steps_before]) if name == "offline" else 0
            lane: tuple[str | int, ...] = ("train", name) if name == "offline" else ("train", round_number, name)
            needed = [batch[source] for batch in counts[steps_before:]]
            walk = iter(seeded_cycle(len(pools.get(name, ())), used_before, sum(needed), self.seed, *lane))
            for batch, count in zip(batches, needed, strict=True):
                batch.extend(pools[name][next(walk)] for _ in range(count))
        return batches


def usage(batches: Sequence[Sequence[TrainingPair]], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often the pairs of each source were used: `{source: {"1 times": pairs, "2 times": pairs}}`."""
    uses = Counter((pair.source, pair.pair_id) for batch in batches for pair in batch)
    times = Counter((source, count) for (source, _), count in uses.items())
    return {
        name: {str(count): times[source, count] for (of, count) in sorted(times) if of == source}
        for source, name in enumerate(names)
    }


class PairCollator:
    """Pairs as tensors, padded on the right: the chosen responses first, then the rejected ones.

    Args:
        pad_token_id: what fills the rest; it is masked.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, pairs: Sequence[TrainingPair]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask`, `completion_mask` (2B, T) and `label`, `source`, `pair_id` (B,)."""
        import torch

        batch = pad_batch(
            [pair.prompt_ids for pair in pairs] * 2,
            [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs],
            self.pad_token_id,
        )
        columns: dict[str, Any] = {
            "input_ids": batch.input_ids_BT,
            "attention_mask": batch.attention_mask_BT,
            "completion_mask": batch.completion_mask_BT,
            "label": torch.tensor([pair.label for pair in pairs], dtype=torch.float32),
            "source": torch.tensor([pair.source for pair in pairs]),
            "pair_id": torch.tensor([pair.pair_id for pair in pairs]),
        }
        return columns
