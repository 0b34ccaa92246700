"""The decoding loop: a forward pass a token, over sequences that are rows of a cache.

It owns who is in which row. A prompt is read once, however many responses to it are wanted: the distinct prompts of a
batch are read together, and each request begins with a copy of its prompt's row. A sequence that has ended leaves, with
others that have, so that none is run to the end of the longest. Who leaves when depends on the batch alone.

Not every model's cache is rows that can be copied and left out: some keep a state elsewhere, some read the padding
before a prompt. Each model is tried once against what it says of the same tokens alone. `through_generate` samples
those that fail.

Shapes: R rows of T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.engines.drawing import Draws
from align_cli.models.devices import in_float64, is_rounding
from align_cli.models.memory import memory_fault

if TYPE_CHECKING:
    from align_cli.models.load import Policy

ENDED_PART = 1 / 8
"""How large a part of the rows must have ended for them to leave: the rest of the cache is copied then, once."""


def decode(
    policy: Policy,
    requests: Sequence[Request],
    settings: SamplingSettings,
    heard: Callable[[list[int]], None] | None = None,
) -> list[Sample]:
    """One batch of responses, from a model that keeps rows apart.

    Args:
        policy: what is sampled.
        requests: what is asked for; equal prompts are read once.
        settings: how it is sampled.
        heard: called with all tokens so far of a single request; what it raises ends the sampling.
    """
    draws = Draws(policy, requests, settings, heard)
    prompts = [tuple(request.prompt_ids) for request in requests]
    row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    with torch.no_grad(), _at_work(policy.model) as model:
        rows = Rows(model, list(row_of), settings.max_new_tokens)
        rows.keep(torch.tensor([row_of[prompt] for prompt in prompts], device=model.device))
        tokens_R = draws.draw(rows.logits_RV)
        for _ in range(1, settings.max_new_tokens):
            part_ended = draws.part_ended()
            if part_ended == 1:
                break
            if part_ended > ENDED_PART:
                staying = draws.let_ended_leave().to(model.device)
                rows.keep(staying)
                tokens_R = tokens_R[staying]
            rows.read(tokens_R)
            tokens_R = draws.draw(rows.logits_RV)
    return draws.samples()


class Rows:
    """Sequences that a model has read, one a row of its cache, padded on the left.

    Args:
        model: of transformers.
        prompts: what it reads first, none empty.
        room: the most tokens that are read behind them.
    """

    logits_RV: torch.Tensor
    """What the model says of the token behind each row."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], room: int) -> None:
        from transformers import DynamicCache

        self._model, self._takes = model, signature(model.forward).parameters
        self._cache = DynamicCache(config=model.config)
        self._length = max(map(len, prompts))
        ids_RT = torch.zeros(len(prompts), self._length, dtype=torch.long)
        mask_RT = torch.zeros(len(prompts), self._length + room, dtype=torch.long)
        for prompt, ids_T, mask_T in zip(prompts, ids_RT, mask_RT, strict=True):
            ids_T[self._length - len(prompt) :] = torch.tensor(prompt)
            mask_T[self._length - len(prompt) :] = 1
        self._mask_RT = mask_RT.to(model.device)
        self._positions_RT = (self._mask_RT.cumsum(-1) - 1).clamp(min=0)
        self._run(ids_RT.to(model.device))

    def keep(self, rows: torch.Tensor) -> None:
        """Have these rows alone, in this order; one that is named twice is there twice."""
        self._cache.batch_select_indices(rows)
        self._mask_RT, self._positions_RT = self._mask_RT[rows], self._positions_RT[rows]
        self.logits_RV = self.logits_RV[rows]

    def read(self, tokens_R: torch.Tensor) -> None:
        """One more token a row."""
        self._length += 1
        self._run(tokens_R[:, None])

    def _run(self, ids_RT: torch.Tensor) -> None:
        begin = self._length - ids_RT.shape[1]
        inputs = {"position_ids": self._positions_RT[:, begin : self._length], "logits_to_keep": 1}
        self.logits_RV = self._model(
            input_ids=ids_RT,
            attention_mask=self._mask_RT[:, : self._length],
            past_key_values=self._cache,
            use_cache=True,
            **{name: value for name, value in inputs.items() if name in self._takes},
        ).logits[:, -1]


def keeps_rows_apart(model: Any) -> bool:
    """Whether a model says of rows that were copied and left behind what it says of each sequence alone.

    Raises:
        Exception: whatever says that there is no memory for two rows of a few tokens.
    """
    if model not in _KEEPS_APART:
        with torch.no_grad(), _at_work(model) as working:
            _KEEPS_APART[model] = _tried(working)
    return _KEEPS_APART[model]


_KEEPS_APART: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _tried(model: Any) -> bool:
    """Whether rows differ from sequences alone by next to nothing, by how those differ from each other."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    first, second, third, *long = (number % vocabulary for number in range(1, 9))
    short = [*long[:1], first]

    def token(*ids: int) -> torch.Tensor:
        return torch.tensor(ids, device=model.device)

    def alone(ids: list[int]) -> torch.Tensor:
        mask_1T = torch.ones(1, len(ids), dtype=torch.long, device=model.device)
        return model(input_ids=token(*ids)[None], attention_mask=mask_1T, use_cache=False).logits[0]

    try:
        rows = Rows(model, [long, short], 2)
        found = [rows.logits_RV]
        for kept, read in [((1, 1), (second, third)), ((1,), (first,))]:  # the shorter one, twice; the second of these
            rows.keep(token(*kept))
            rows.read(token(*read))
            found.append(rows.logits_RV)
        wanted = [alone(long)[-1:], alone([*short, second])[-2:], alone([*short, third, first])[-2:]]
    except Exception as error:  # whatever a model does with a cache and a mask that it does not know
        if memory_fault(error):
            raise
        return False
    found_V, wanted_V = (in_float64(torch.cat(parts)).log_softmax(-1) for parts in (found, wanted))
    differ = (wanted_V[:, None] - wanted_V).abs().amax(-1)
    least = differ[~torch.eye(len(differ), dtype=torch.bool, device=differ.device)].min()
    return is_rounding(found_V - wanted_V, least, model.dtype)


def _at_work(model: Any) -> AbstractContextManager[Any]:
    """The model, or the one below a view of it while its adapters are at work there."""
    return model.at_work() if hasattr(model, "at_work") else nullcontext(model)
