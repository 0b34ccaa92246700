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
        label: probability in [0, 1] that `chosen` is the better one; not looked at where labels are the policy's.
        source: position of the source in the mixture.
        pair_id: the same number for every use of the same pair, distinct within a source and round.
        group_id: the same number for pairs that share a response; baselines leave a whole group out.
        other_ids: responses besides these two that the choice of the pair depended on, as of best and worst of K.
        sampled_logp: log-probability under which all of the pair's responses together were sampled, in nats; 0 for
            responses from a dataset.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    label: float
    source: int
    pair_id: int
    group_id: int
    other_ids: tuple[list[int], ...] = ()
    sampled_logp: float = 0.0


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
        per_round: the sources whose pools are a round's own; the others' are walked through across rounds.
    """

    def __init__(
        self, shares: Mapping[str, float], batch_size: int, seed: int, *, per_round: Sequence[str] = ("dpp", "dpr")
    ) -> None:
        self.shares = dict(shares)
        self.batch_size = batch_size
        self.seed = seed
        self.per_round = frozenset(per_round)

    def round_batches(
        self, pools: Mapping[str, Sequence[TrainingPair]], round_number: int, steps_per_round: int
    ) -> list[list[TrainingPair]]:
        """The batches of one round.

        Pools that stay are walked through across rounds; a round's own pairs are walked through within the round. Both
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
            is_fresh = name in self.per_round
            used_before = 0 if is_fresh else sum(batch[source] for batch in counts[:steps_before])
            lane: tuple[str | int, ...] = ("train", round_number, name) if is_fresh else ("train", name)
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
    """Pairs as tensors, padded on the right: the chosen responses, the rejected ones, then all others.

    Args:
        pad_token_id: what fills the rest; it is masked.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, pairs: Sequence[TrainingPair]) -> dict[str, torch.Tensor]:
        """The batch.

        Returns:
            `input_ids`, `attention_mask`, `completion_mask` (2B + M, T), `pair_of` (2B + M,), the pair that each
            sequence belongs to, and `label`, `sampled_logp`, `source`, `pair_id`, `group_id` (B,).
        """
        import torch

        others = [(index, ids) for index, pair in enumerate(pairs) for ids in pair.other_ids]
        batch = pad_batch(
            [pair.prompt_ids for pair in pairs] * 2 + [pairs[index].prompt_ids for index, _ in others],
            [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs] + [ids for _, ids in others],
            self.pad_token_id,
        )
        columns: dict[str, Any] = {
            "input_ids": batch.input_ids_BT,
            "attention_mask": batch.attention_mask_BT,
            "completion_mask": batch.completion_mask_BT,
            "pair_of": torch.tensor([*range(len(pairs)), *range(len(pairs)), *(index for index, _ in others)]),
            "label": torch.tensor([pair.label for pair in pairs], dtype=torch.float32),
            "sampled_logp": torch.tensor([pair.sampled_logp for pair in pairs], dtype=torch.float32),
            "source": torch.tensor([pair.source for pair in pairs]),
            "pair_id": torch.tensor([pair.pair_id for pair in pairs]),
            "group_id": torch.tensor([pair.group_id for pair in pairs]),
        }
        return columns
