"""Which pair stands in which batch: exact shares of every source, and seeded orders.

Everything is a function of the global step, so resuming needs no position but that one number.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

from align_cli.data.lazy import Lazy
from align_cli.seeds import seeded_cycle


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
        prompt_id: the same number for pairs of the same prompt, distinct within a source and round.
        other_ids: responses of the policy besides these two that the choice of the pair depended on, as of best and
            worst of K.
        sampled_logp: log-probability under which all of the pair's responses of the policy together were sampled, in
            nats; 0 for responses from a dataset.
        response_ids: numbers of the chosen, the rejected and the other responses, at least 0, equal where pairs of a
            source share a response; empty for a pair that shares none.
        of_policy: whether the policy sampled the chosen and the rejected one; looked at where the source's responses
            come from the policy at all.
        from_reference: whether the reference sampled them, and they carry the optimism term.
        policy_logps: log-probability of the chosen and of the rejected one under the policy that sampled both, in nats;
            None where another wrote one of them, or where they were sampled from another distribution than its own.
        targets: what a labeler gave the chosen and the rejected one, as losses that regress on it want it: SPPO the win
            rate of each, REBEL its score; None where it gave none.
        initial_logps: log-probability of the chosen and of the rejected one under the initial policy, in nats; None
            where nothing asks for it.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    label: float
    source: int
    pair_id: int
    prompt_id: int
    other_ids: tuple[list[int], ...] = ()
    sampled_logp: float = 0.0
    response_ids: tuple[int, ...] = ()
    of_policy: tuple[bool, bool] = (True, True)
    from_reference: tuple[bool, bool] = (False, False)
    policy_logps: tuple[float, float] | None = None
    targets: tuple[float, float] | None = None
    initial_logps: tuple[float, float] | None = None


class PromptPool(Lazy[TrainingPair]):
    """A pool of pairs that are each of another prompt, and are made when they are drawn."""


def batch_counts(shares_of_steps: Iterable[Sequence[float]], batch_size: int) -> list[list[int]]:
    """How many pairs of each source every batch holds.

    A share of a batch that is no whole number is rounded down or up, in turn: a source whose share gives at least one
    pair has one in every batch. The sums over the batches so far stay within a pair of the exact share. Of the sources
    that are owed a pair, those take it that would soonest be owed too much.

    Args:
        shares_of_steps: of each batch, at least 0, summing to 1; they may change from one to the next.
        batch_size: pairs in a global batch.

    Returns:
        One list of counts a batch, in the order of the sources, summing to `batch_size`.

    Source: Tijdeman 1980, The chairman assignment problem, which proves it where a batch has one such pair to give; for
    more, and five sources, a test looks.
    """
    owed: list[float] = []
    counts = []
    for shares in shares_of_steps:
        # The small numbers forgive rounding: a share of 0.3 of 10 pairs is 3 pairs, in every batch.
        whole = [int(share * batch_size + _ROUNDING) for share in shares]
        parts = [share * batch_size - pairs for share, pairs in zip(shares, whole, strict=True)]
        owed = [debt + part for debt, part in zip(owed or [0.0] * len(shares), parts, strict=True)]
        taking = _takers(owed, parts)[: batch_size - sum(whole)]
        counts.append([pairs + (source in taking) for source, pairs in enumerate(whole)])
        owed = [debt - (source in taking) for source, debt in enumerate(owed)]
    return counts


def _takers(owed: Sequence[float], parts: Sequence[float]) -> list[int]:
    """The sources, those first that get one more pair where there is one to give."""
    owing = 1 / max(2 * len(parts) - 2, 1)

    def urgency(source: int) -> tuple[bool, bool, float]:
        has_part, is_owed = parts[source] > _ROUNDING, owed[source] > owing - _ROUNDING
        return not has_part, not is_owed, (1 - owing - owed[source]) / max(parts[source], _ROUNDING)

    return sorted(range(len(parts)), key=urgency)


_ROUNDING = 1e-6


class Mixture:
    """Draws the batches of a round from the pools of its sources.

    Args:
        shares: share of each source by name, in a fixed order; sums to 1.
        of_rounds: the shares of rounds, by round, where they are others than these; each has the same sources.
        batch_size: pairs in a global batch.
        seed: the run's seed.
        per_round: the sources whose pools are a round's own; the others' are walked through across rounds.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        batch_size: int,
        seed: int,
        *,
        per_round: Sequence[str] = (),
        of_rounds: Mapping[int, Mapping[str, float]] = MappingProxyType({}),
    ) -> None:
        self.shares = dict(shares)
        self.of_rounds = of_rounds
        self.batch_size = batch_size
        self.seed = seed
        self.per_round = frozenset(per_round)

    def round_batches(
        self, pools: Mapping[str, Sequence[TrainingPair]], round_number: int, steps_per_round: int
    ) -> list[list[TrainingPair]]:
        """The batches of one round.

        Pools that stay are walked through across rounds; a round's own pairs are walked through within the round. Both
        in fresh seeded orders of prompts, cycling when the steps need more than there are. Pairs of a prompt follow one
        another, so that they stand in one batch and are each other's baseline.

        Args:
            pools: pairs of each source; a source with a share must have some.
            round_number: from 1.
            steps_per_round: batches.

        Returns:
            `steps_per_round` lists of `batch_size` pairs.
        """
        steps_before = (round_number - 1) * steps_per_round
        shares_of_rounds = [
            list(self.of_rounds.get(number + 1, self.shares).values()) for number in range(round_number)
        ]
        shares_of_steps = (shares for shares in shares_of_rounds for _ in range(steps_per_round))
        counts = batch_counts(shares_of_steps, self.batch_size)
        batches: list[list[TrainingPair]] = [[] for _ in range(steps_per_round)]
        for source, name in enumerate(self.shares):
            is_fresh = name in self.per_round
            used_before = 0 if is_fresh else sum(batch[source] for batch in counts[:steps_before])
            lane: tuple[str | int, ...] = ("train", round_number, name) if is_fresh else ("train", name)
            needed = [batch[source] for batch in counts[steps_before:]]
            walk = _walk(pools.get(name, ()), used_before, sum(needed), self.seed, lane)
            for batch, count in zip(batches, needed, strict=True):
                batch.extend(islice(walk, count))
        return batches


def _walk(
    pool: Sequence[TrainingPair], start: int, count: int, seed: int, lane: tuple[str | int, ...]
) -> Iterator[TrainingPair]:
    """Pairs `start` to `start + count` of an endless walk through a pool, prompt by prompt in seeded orders."""
    if isinstance(pool, PromptPool):
        return map(pool.__getitem__, seeded_cycle(len(pool), start, count, seed, *lane))
    by_prompt: defaultdict[int, list[TrainingPair]] = defaultdict(list)
    for pair in pool:
        by_prompt[pair.prompt_id].append(pair)
    prompts = list(by_prompt.values())
    # A pass over the pool is a pass over its prompts; what is left of the start is skipped pair by pair.
    passes, skipped = divmod(start, max(len(pool), 1))
    more_passes = math.ceil((skipped + count) / max(len(pool), 1))
    order = seeded_cycle(len(prompts), passes * len(prompts), more_passes * max(len(prompts), 1), seed, *lane)
    return islice((pair for position in order for pair in prompts[position]), skipped, skipped + count)


def usage(batches: Sequence[Sequence[TrainingPair]], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often the pairs of each source were used: `{source: {"1 times": pairs, "2 times": pairs}}`."""
    uses = Counter((pair.source, pair.pair_id) for batch in batches for pair in batch)
    times = Counter((source, count) for (source, _), count in uses.items())
    return {
        name: {str(count): times[source, count] for (of, count) in sorted(times) if of == source}
        for source, name in enumerate(names)
    }
