"""A batch as tensors: padded by the collator, and cut into what goes through the models at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from align_cli.models.layout import Room, sequences_of
from align_cli.models.scoring import TokenBatch, pad_batch
from align_cli.training.batches import TrainingPair

Inputs = dict[str, torch.Tensor]
"""A collated micro-batch, as `PairCollator` makes it."""

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

    def __call__(self, pairs: Sequence[TrainingPair]) -> Inputs:
        """The batch.

        Returns:
            `input_ids`, `attention_mask`, `completion_mask` (2B + M, T); of each sequence (2B + M,) `pair_of`, the pair
            that it belongs to, `of_policy` and `response_id`; of each pair (B,) `label`, `sampled_logp`, `source`,
            `pair_id`, `prompt_id`, (B, 2) `from_reference`, `policy_logps`, `targets` and `initial_logps`, NaN where
            they are not known, and (B, K) `response_ids`, filled up with −1.
        """
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


def token_batch(inputs: Mapping[str, torch.Tensor]) -> TokenBatch:
    """A micro-batch's tokens."""
    return TokenBatch(*(inputs[name] for name in MODEL_INPUTS))


def cut_into_passes(
    inputs: Mapping[str, torch.Tensor],
    most_pairs: int,
    most_tokens: int | None = None,
    *,
    by_length: bool = False,
    reader: Any = None,
) -> list[Inputs]:
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
    num_pairs = len(inputs["label"])
    lengths_S, pair_of_S = inputs["attention_mask"].sum(1), inputs["pair_of"]
    nothing_B = torch.zeros(num_pairs, dtype=lengths_S.dtype, device=lengths_S.device)
    longest_B: list[int] = nothing_B.scatter_reduce(0, pair_of_S, lengths_S, "amax").tolist()
    order = sorted(range(num_pairs), key=lambda pair: -longest_B[pair]) if by_length else range(num_pairs)
    sequences_B: defaultdict[int, list[Any]] = defaultdict(list)
    if most_tokens is not None:
        sequences = sequences_of(token_batch(inputs))
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


def cut_further(parts: Sequence[Inputs], number: int) -> list[Inputs]:
    """The parts of a batch, those with the most pairs halved until there are so many; no part is without pairs.

    Args:
        parts: as `cut_into_passes` gives them.
        number: how many there shall be; at most the pairs that there are.
    """
    parts = list(parts)
    while len(parts) < number:
        place = max(range(len(parts)), key=lambda index: len(parts[index]["label"]))
        largest = parts[place]
        is_first_B = torch.arange(len(largest["label"]), device=largest["label"].device) < len(largest["label"]) // 2
        parts[place : place + 1] = [_trimmed(select_pairs(largest, rows_B)) for rows_B in (is_first_B, ~is_first_B)]
    return parts


def _trimmed(inputs: Inputs) -> Inputs:
    """Without the columns that are padding alone."""
    longest = int(inputs["attention_mask"].sum(1).max())
    return inputs | {name: inputs[name][:, :longest] for name in MODEL_INPUTS}


def select_pairs(inputs: Mapping[str, torch.Tensor], rows_B: torch.Tensor) -> Inputs:
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
