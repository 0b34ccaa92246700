"""How a batch's sequences are laid out for a forward pass: each alone, or all of a prompt behind one copy of it.

In a shared row stands a prompt, and behind it its responses, one after the other. A response's positions go on where
the prompt ends, and a mask lets it see the prompt and itself, so that a model says of it what it says of it alone. A
response that comes twice is read once. Not every model keeps to positions and a mask: each is tried once.

Shapes: S sequences of T tokens, R shared rows of P places, N response tokens of the batch in the order of its
sequences, M distinct ones in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from align_cli.models.devices import in_float64, is_rounding
from align_cli.models.head import Tokens, score_tokens

if TYPE_CHECKING:
    from align_cli.models.scoring import TokenBatch

PADDING, PROMPT = -1, 0
"""Segments of a row beside its responses, which count from 1."""

LENGTHS = ("max_position_embeddings", "n_positions", "sliding_window", "window_size", "attention_window_size",
           "attention_chunk_size")  # fmt: skip
"""Names in configs of how far a model looks, which some count by places in a row and not by positions."""

TRIED_PROMPT, TRIED_RESPONSES = 6, (24, 8)
"""Tokens of the row that a model is tried with: a first response long enough for a distance to be noticed."""


Sequence = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt, and of a response behind it."""


class Layout(NamedTuple):
    """What a model is to run over, and where the batch's tokens are in it.

    Args:
        tokens: the rows, and M of their tokens.
        of_N: which of the M each of the batch's N response tokens is; None where they are the same, in one order.
    """

    tokens: Tokens
    of_N: torch.Tensor | None = None

    def for_batch(self, values_M: torch.Tensor) -> torch.Tensor:
        """Each of the batch's tokens has what was found of it."""
        return values_M if self.of_N is None else values_M.index_select(0, self.of_N)

    def of_batch(self, values_N: torch.Tensor) -> torch.Tensor:
        """What is known of the batch's tokens, for those that are run over; it is the same where they are."""
        if self.of_N is None:
            return values_N
        return values_N.new_empty(len(self.tokens.before_N), *values_N.shape[1:]).index_copy_(0, self.of_N, values_N)

    def wanted(self, wanted_N: torch.Tensor) -> torch.Tensor:
        """(M,) which of them any of the batch's tokens is wanted for."""
        if self.of_N is None:
            return wanted_N
        return wanted_N.new_zeros(len(self.tokens.before_N)).index_fill_(0, self.of_N[wanted_N], True)


class _Row(NamedTuple):
    """A prompt and its distinct responses, each with where its tokens begin among the M."""

    prompt: tuple[int, ...]
    responses: dict[tuple[int, ...], int]

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))


def lay_out(model: Any, batch: TokenBatch) -> Layout:
    """The layout that costs a model the least, of those that it keeps to."""
    if len(batch.input_ids_BT) == 1 or not shares_prompts(model):
        return each_alone(batch)
    rows, starts = _shared_rows(batch)
    num_sequences, length = batch.input_ids_BT.shape
    if _is_better_shared(model, len(rows), max(row.length for row in rows), num_sequences, length):
        return _shared(rows, starts, batch, model.dtype)
    return each_alone(batch)


class Room:
    """The places that sequences take together, padding among them, in the layout that they will be given.

    Args:
        model: what is to run over them; None where each is read alone.
    """

    def __init__(self, model: Any = None) -> None:
        self._model = model if model is not None and shares_prompts(model) else None
        self._rows: dict[tuple[int, ...], _Row] = {}
        self._num_sequences = self._length = self._longest_row = 0

    def add(self, sequences: Iterable[Sequence]) -> int:
        """The places that are taken when these have joined those that were here."""
        for prompt, response in sequences:
            row = self._rows.setdefault(prompt, _Row(prompt, {}))
            row.responses.setdefault(response, 0)
            self._num_sequences += 1
            self._length = max(self._length, len(prompt) + len(response))
            self._longest_row = max(self._longest_row, row.length)
        shape = (len(self._rows), self._longest_row, self._num_sequences, self._length)
        if self._num_sequences > 1 and self._model is not None and _is_better_shared(self._model, *shape):
            return len(self._rows) * self._longest_row
        return self._num_sequences * self._length


def shares_prompts(model: Any, length: int = 0) -> bool:
    """Whether a model says of several responses in a row of so many places what it says of each alone."""
    if model not in _SHARES:
        _SHARES[model] = _tried(model)
    bounds = [bound for name in LENGTHS if (bound := getattr(_config(model), name, None))]  # 0 and False bound nothing
    return _SHARES[model] and all(length <= bound for bound in bounds)


_SHARES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def each_alone(batch: TokenBatch) -> Layout:
    """The plain layout: one sequence a row."""
    predicts_ST = batch.completion_mask_BT.roll(-1, dims=1).bool()
    predicts_ST[:, -1] = False
    inputs = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
    return Layout(
        Tokens(inputs, predicts_ST.flatten().nonzero().squeeze(1), batch.input_ids_BT[:, 1:][predicts_ST[:, :-1]])
    )


def _is_better_shared(model: Any, num_rows: int, longest_row: int, num_sequences: int, length: int) -> bool:
    """Whether sequences that would stand in so many shared rows cost less there, and the model keeps to them."""
    width = getattr(_config(model), "hidden_size", None)
    is_cheaper = _cost(num_rows, longest_row, width) < _cost(num_sequences, length, width)
    return is_cheaper and shares_prompts(model, longest_row)


def _cost(rows: int, places: int, width: int | None) -> float:
    """What a forward pass costs, in places: 24 H² multiplications a place, and 4 P H for all that it looks at.

    The mask makes no kernel skip what it hides.
    """
    return rows * places * (1 + places / (6 * (width or places)))


def sequences_of(batch: TokenBatch) -> Iterator[Sequence]:
    """A batch's sequences as token ids."""
    lengths: list[int] = batch.attention_mask_BT.sum(1).tolist()
    num_answered: list[int] = batch.completion_mask_BT.sum(1).tolist()
    for ids, length, answered in zip(batch.input_ids_BT.tolist(), lengths, num_answered, strict=True):
        yield tuple(ids[: length - answered]), tuple(ids[length - answered : length])


def _shared_rows(batch: TokenBatch) -> tuple[list[_Row], list[int]]:
    """One row a distinct prompt, and where among the M the tokens of each sequence begin."""
    by_prompt: dict[tuple[int, ...], _Row] = {}
    placed = []
    for prompt, response in sequences_of(batch):
        row = by_prompt.setdefault(prompt, _Row(prompt, {}))
        row.responses.setdefault(response, 0)
        placed.append((row, response))
    rows, start = list(by_prompt.values()), 0
    for row in rows:
        for response in row.responses:
            row.responses[response] = start
            start += len(response)
    return rows, [row.responses[response] for row, response in placed]


def _shared(rows: list[_Row], starts: list[int], batch: TokenBatch, dtype: torch.dtype) -> Layout:
    places, device = max(row.length for row in rows), batch.input_ids_BT.device
    ids_RP = torch.zeros(len(rows), places, dtype=torch.long)
    positions_RP, segments_RP = torch.zeros_like(ids_RP), torch.full_like(ids_RP, PADDING)
    before_M: list[int] = []  # the place before each of the M tokens, where it is predicted
    for number, (row, ids_P, positions_P, segments_P) in enumerate(
        zip(rows, ids_RP, positions_RP, segments_RP, strict=True)
    ):
        parts = [row.prompt, *row.responses]
        ends = list(accumulate(map(len, parts)))
        ids_P[: ends[-1]] = torch.tensor([token for part in parts for token in part])
        last = len(row.prompt) - 1
        for segment, (part, end) in enumerate(zip(parts, ends, strict=True)):
            first = 0 if segment == PROMPT else len(row.prompt)
            begin = end - len(part)
            positions_P[begin:end] = torch.arange(first, first + len(part))
            segments_P[begin:end] = segment
            if segment != PROMPT and part:
                before_M += [number * places + place for place in (last, *range(begin, end - 1))]
    segments_RP = segments_RP.to(device)
    inputs = {
        "input_ids": ids_RP.to(device),
        "position_ids": positions_RP.to(device),
        "attention_mask": _mask(segments_RP, dtype),
    }
    before = torch.tensor(before_M, dtype=torch.long, device=device)
    of_N = _places_among(starts, batch).to(device)
    targets_M = torch.empty_like(before).index_copy_(0, of_N, batch.input_ids_BT[batch.completion_mask_BT.bool()])
    return Layout(Tokens(inputs, before, targets_M), of_N)


def _places_among(starts: list[int], batch: TokenBatch) -> torch.Tensor:
    """(N,) which of the M each response token of the batch is."""
    lengths_S = batch.completion_mask_BT.sum(1).cpu()
    begins_S = torch.tensor(starts) - (lengths_S.cumsum(0) - lengths_S)
    return torch.arange(int(lengths_S.sum())) + begins_S.repeat_interleave(lengths_S)


def _mask(segments_RP: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(R, 1, P, P) 0 for who sees whom: what stands before, in the prompt or in one's own part; padding sees itself.

    Numbers to add, which every layer takes as they are: of true and false each would make numbers of its own.
    """
    own_RPP = segments_RP[:, :, None] == segments_RP[:, None, :]
    sees_RPP = (own_RPP | (segments_RP == PROMPT)[:, None, :]).tril()[:, None]
    return torch.zeros_like(sees_RPP, dtype=dtype).masked_fill(~sees_RPP, torch.finfo(dtype).min)


def _attention(model: Any) -> str | None:
    return getattr(_config(model), "_attn_implementation", None)


def _config(model: Any) -> Any:
    """That of a model's text; None where it has none, and is no model of transformers."""
    return model.config.get_text_config() if hasattr(model, "config") else None


def _tried(model: Any) -> bool:
    """Whether sharing changes next to nothing, by what it would change if the second response saw the first."""
    if _attention(model) not in ("sdpa", "eager"):  # others take no mask of ours
        return False
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = [number % vocabulary for number in range(1, 1 + TRIED_PROMPT + sum(TRIED_RESPONSES))]
    prompt, (middle, end) = tuple(ids[:TRIED_PROMPT]), (TRIED_PROMPT + TRIED_RESPONSES[0], len(ids))
    first, second = tuple(ids[TRIED_PROMPT:middle]), tuple(ids[middle:end])

    def of_second(shared: bool, before: tuple[int, ...], *responses: tuple[int, ...]) -> torch.Tensor:
        from align_cli.models.scoring import pad_batch

        batch = pad_batch([list(before)] * len(responses), list(map(list, responses)), 0)
        batch = batch.to(model.device)
        layout = _shared(*_shared_rows(batch), batch, model.dtype) if shared else each_alone(batch)
        return in_float64(score_tokens(model, layout.tokens).logps_N[-len(second) :])

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone, beside = of_second(False, prompt, second), of_second(True, prompt, first, second)
            leaked = of_second(False, prompt + first, second)
    except Exception:  # whatever a model does with positions and a mask that it does not know
        return False
    finally:
        model.train(was_training)
    return is_rounding(beside - alone, (leaked - alone).abs().max(), model.dtype)
