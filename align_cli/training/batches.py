"""Which pair stands in which batch: exact shares of every source, seeded orders, and the collator.

Everything is a function of the global step, so resuming needs no position but that one number.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from align_cli.data.lazy import Lazy
from align_cli.models.scoring import TokenBatch, pad_batch
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


MODEL_INPUTS = ("input_ids", "attention_mask", "completion_mask")
"""What of a collated batch TRL's own loss knows."""


class PairCollator:
    """Pairs as tensors, padded on the right: the chosen responses, the rejected ones, then all others.

    Args:
        pad_token_id: what fills the rest; it is masked.
        num_responses: the width of `response_ids` (K), at least; batches that are put together need the same.
    """

    def __init__(self, pad_token_id: int, num_responses: int = 2) -> None:
        self.pad_token_id = pad_token_id
        self.num_responses = num_responses

    def __call__(self, pairs: Sequence[TrainingPair]) -> dict[str, torch.Tensor]:
        """The batch.

        Returns:
            `input_ids`, `attention_mask`, `completion_mask` (2B + M, T); of each sequence (2B + M,) `pair_of`, the pair
            that it belongs to, `of_policy` and `response_id`; of each pair (B,) `label`, `sampled_logp`, `source`,
            `pair_id`, `prompt_id`, (B, 2) `from_reference`, `policy_logps`, `targets` and `initial_logps`, NaN where
            they are not known, and (B, K) `response_ids`, filled up with −1.
        """
        import torch

        others = [(index, ids) for index, pair in enumerate(pairs) for ids in pair.other_ids]
        batch = pad_batch(
            [pair.prompt_ids for pair in pairs] * 2 + [pairs[index].prompt_ids for index, _ in others],
            [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs] + [ids for _, ids in others],
            self.pad_token_id,
        )
        responses = [_response_ids(pair) for pair in pairs]
        other_responses = [number for numbers in responses for number in numbers[2:]]
        width = max(self.num_responses, *(len(numbers) for numbers in responses))
        columns: dict[str, Any] = {
            "input_ids": batch.input_ids_BT,
            "attention_mask": batch.attention_mask_BT,
            "completion_mask": batch.completion_mask_BT,
            "pair_of": [*range(len(pairs)), *range(len(pairs)), *(index for index, _ in others)],
            "of_policy": [pair.of_policy[side] for side in (0, 1) for pair in pairs] + [True] * len(others),
            "response_id": [numbers[side] for side in (0, 1) for numbers in responses] + other_responses,
            "label": torch.tensor([pair.label for pair in pairs], dtype=torch.float32),
            "sampled_logp": torch.tensor([pair.sampled_logp for pair in pairs], dtype=torch.float32),
            "source": [pair.source for pair in pairs],
            "pair_id": [pair.pair_id for pair in pairs],
            "prompt_id": [pair.prompt_id for pair in pairs],
            "from_reference": [pair.from_reference for pair in pairs],
            **{
                name: torch.tensor([getattr(pair, name) or (math.nan, math.nan) for pair in pairs])
                for name in ("policy_logps", "targets", "initial_logps")
            },
            "response_ids": [[*numbers, *[-1] * (width - len(numbers))] for numbers in responses],
        }
        return {name: torch.as_tensor(column) for name, column in columns.items()}


def cut_into_passes(
    inputs: Mapping[str, torch.Tensor],
    most_pairs: int,
    most_tokens: int | None = None,
    *,
    by_length: bool = False,
    reader: Any = None,
) -> list[dict[str, torch.Tensor]]:
    """A collated batch in parts.

    Args:
        inputs: the batch.
        most_pairs: pairs in a part.
        most_tokens: tokens in a part, with padding, as they lie there when a model runs over them: a prompt once for
            all of its responses where it reads it so; one pair alone may have more. None for any number.
        by_length: whether pairs of a length come together, the longest first, so that padding is short and memory
            runs out at once or not at all.
        reader: the model that is to run over them; None where it reads each sequence alone.

    Returns:
        The parts, each no longer than its longest sequence; what is the whole step's is in each of them.
    """
    import torch

    from align_cli.models.layout import Room, sequences_of

    num_pairs = len(inputs["label"])
    lengths_S, pair_of_S = inputs["attention_mask"].sum(1), inputs["pair_of"]
    nothing_B = torch.zeros(num_pairs, dtype=lengths_S.dtype, device=lengths_S.device)
    longest_B: list[int] = nothing_B.scatter_reduce(0, pair_of_S, lengths_S, "amax").tolist()
    order = sorted(range(num_pairs), key=lambda pair: -longest_B[pair]) if by_length else range(num_pairs)
    sequences_B: defaultdict[int, list[Any]] = defaultdict(list)
    if most_tokens is not None:
        sequences = sequences_of(TokenBatch(*(inputs[name] for name in MODEL_INPUTS)))
        for pair, sequence in zip(pair_of_S.tolist(), sequences, strict=True):
            sequences_B[pair].append(sequence)
    parts: list[list[int]] = []
    room = Room()
    for pair in order:
        is_full = most_tokens is not None and room.add(sequences_B[pair]) > most_tokens
        if not parts or is_full or len(parts[-1]) == most_pairs:
            parts.append([])
            room = Room(reader if most_tokens is not None else None)
            room.add(sequences_B[pair])
        parts[-1].append(pair)
    if len(parts) == 1:
        return [dict(inputs)]
    pairs_B = torch.arange(num_pairs, device=pair_of_S.device)
    return [_trimmed(select_pairs(inputs, torch.isin(pairs_B, pairs_B[part]))) for part in parts]


def cut_further(parts: Sequence[dict[str, torch.Tensor]], number: int) -> list[dict[str, torch.Tensor]]:
    """The parts of a batch, those with the most pairs halved until there are so many; no part is without pairs.

    Args:
        parts: as `cut_into_passes` gives them.
        number: how many there shall be; at most the pairs that there are.
    """
    import torch

    parts = list(parts)
    while len(parts) < number:
        place = max(range(len(parts)), key=lambda index: len(parts[index]["label"]))
        largest = parts[place]
        is_first_B = torch.arange(len(largest["label"]), device=largest["label"].device) < len(largest["label"]) // 2
        parts[place : place + 1] = [_trimmed(select_pairs(largest, rows_B)) for rows_B in (is_first_B, ~is_first_B)]
    return parts


def _trimmed(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the columns that are padding alone."""
    longest = int(inputs["attention_mask"].sum(1).max())
    return inputs | {name: inputs[name][:, :longest] for name in MODEL_INPUTS}


def select_pairs(inputs: Mapping[str, torch.Tensor], rows_B: torch.Tensor) -> dict[str, torch.Tensor]:
    """The part of a collated batch that holds some of its pairs; what is the whole step's stays as it is."""
    num_pairs, num_sequences = len(rows_B), len(inputs["pair_of"])
    sequences_S = rows_B[inputs["pair_of"]]
    tokens_N = sequences_S[inputs["completion_mask"].nonzero()[:, 0]]
    new_position_B = rows_B.cumsum(0) - 1
    part = {}
    for name, column in inputs.items():
        if name.startswith("global_"):
            part[name] = column
        elif name == "reference_states":
            part[name] = column[tokens_N]
        elif name in PER_SEQUENCE:
            assert len(column) == num_sequences
            part[name] = column[sequences_S]
        else:
            assert len(column) == num_pairs
            part[name] = column[rows_B]
    part["pair_of"] = new_position_B[part["pair_of"]]
    return part


PER_SEQUENCE = (*MODEL_INPUTS, "pair_of", "of_policy", "response_id", "reference_logps")


def _response_ids(pair: TrainingPair) -> tuple[int, ...]:
    """The pair's response numbers; for one that shares none, negative ones of its own: its copies share them."""
    number = 2 + len(pair.other_ids)
    return pair.response_ids or tuple(-2 - pair.pair_id * _MOST_RESPONSES - position for position in range(number))


_MOST_RESPONSES = 1 << 20
