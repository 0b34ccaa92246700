"""A model's log-probabilities at response positions, and their exact KL to another model, without a batch's logits.

Logits are most of a training step's memory: a number for every token of the vocabulary at every position. Here the LM
head runs within the model's own forward pass, at the response's positions alone and a chunk of them at a time. A head
that is a linear layer has a gradient of its own (`linear_head`); of others, where there are several chunks, each one's
logits are made again for it. Whatever the forward pass does around its head, as switching adapters or casting, it does
for the chunks too. `scoring` and `sampled` ask; nothing else does.

Shapes: B sequences of T tokens, N response tokens of the whole batch in the order of its rows, n of them in a chunk,
V vocabulary, H width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch.utils.checkpoint import checkpoint

from align_cli.methods.logprobs import token_kl, token_logps
from align_cli.models.devices import in_float64
from align_cli.models.linear_head import LinearHead, linear_scores

CHUNK_LOGITS = 2**24
"""The most logits that are made at once: 64 MiB of them, and with an exact KL five times that."""

OUTPUTS_TRIED = (-50.0, 50.0)
"""What a head is made to give, evenly between these two, to see what its model makes of it."""


class Tokens(NamedTuple):
    """Which tokens are scored.

    Args:
        inputs: `input_ids` (B, T), and whatever else the model is to be called with.
        before_N: the place in the flattened (B · T) rows where each is predicted; several may be predicted at one.
        targets_N: their ids.
    """

    inputs: dict[str, torch.Tensor]
    before_N: torch.Tensor
    targets_N: torch.Tensor


class Anchor(NamedTuple):
    """What a frozen model said of the same tokens: enough for log-ratios, and for the KL to it.

    Args:
        model: which one.
        states_NH: what its head was given.
        wanted_N: at which tokens the KL is wanted.
        head: the head; None for the model's own.
    """

    model: Any
    states_NH: torch.Tensor
    wanted_N: torch.Tensor
    head: Head | None = None


class TokenScores(NamedTuple):
    """What a model says of tokens.

    Args:
        logps_N: their log-probabilities, with gradient where it is enabled.
        kl_N: the exact KL to the anchor over the vocabulary, in nats; 0 where it was not wanted.
        states_NH: what the head was given.
    """

    logps_N: torch.Tensor
    kl_N: torch.Tensor
    states_NH: torch.Tensor


def score_tokens(model: Any, tokens: Tokens, anchor: Anchor | None = None, *, plain: bool = False) -> TokenScores:
    """One forward pass.

    Args:
        model: a causal language model of transformers, or what stands for one.
        tokens: on the model's device.
        anchor: what the KL is taken to; None for none.
        plain: whether all logits are made by the model itself, and stand for states; the anchor's too.
    """
    head = Head() if plain else head_of(model)
    if anchor is not None and plain:
        anchor = anchor._replace(head=head)

    def score(states_NH: torch.Tensor) -> TokenScores:
        return _score_states(head, states_NH, tokens.targets_N, anchor)

    return TokenScores(*in_passing(model, head, tokens, score))


def in_passing(
    model: Any, head: Head, tokens: Tokens, read: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
) -> tuple[torch.Tensor, ...]:
    """One forward pass, and what is made in it of the states that the head is given.

    Args:
        model: likewise.
        head: the model's.
        tokens: likewise.
        read: takes the states (N, H) from which each token is predicted.
    """
    if head.module is None:
        return read(_picked(model(**tokens.inputs, use_cache=False).logits, tokens))
    found: list[tuple[torch.Tensor, ...]] = []

    def read_in_passing(states_BTH: torch.Tensor) -> torch.Tensor:
        found.append(read(_picked(states_BTH, tokens)))
        return states_BTH[..., :1]  # for whatever the model does with its logits behind the head

    with _forward_replaced(head.module, read_in_passing):
        if not _is_sharded(model):
            model(**tokens.inputs, use_cache=False)
            return found[0]
        # What is split over processes is put together for what its forward pass returns, and for the gradient of that.
        with _forward_replaced(model, lambda **inputs: (model.forward(**inputs), tuple(found[0]))[1]):
            return tuple(model(**tokens.inputs, use_cache=False))


def _is_sharded(model: Any) -> bool:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def _picked(states_BTH: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    # Not by indexing: on several threads its gradient adds up what is picked more than once in any order.
    return states_BTH.flatten(0, 1).index_select(0, tokens.before_N)


@dataclass(frozen=True)
class Head:
    """How a model makes logits of its last states.

    Args:
        module: the LM head; None where what the model does behind it is not known, and its logits are taken as states.
        scale: what the head's outputs are multiplied by (Cohere, Granite).
        softcap: the bound c of c · tanh(logits / c) (Gemma); None for none.
    """

    module: torch.nn.Module | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, states_NH: torch.Tensor) -> torch.Tensor:
        """(N, V)."""
        return states_NH if self.module is None else self.finished(self.module(states_NH))

    def linear(self) -> LinearHead | None:
        """The head as a matrix; None where it is more than one, or somebody listens to what it does."""
        module = self.module
        if type(module) is not torch.nn.Linear or self.softcap is not None:
            return None
        listeners = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        if any(listeners) or "forward" in module.__dict__:
            return None
        return LinearHead(module.weight, module.bias, self.scale)

    def finished(self, outputs_NV: torch.Tensor) -> torch.Tensor:
        """What the model does with its head's outputs."""
        if self.scale != 1:
            outputs_NV = outputs_NV * self.scale
        return outputs_NV if self.softcap is None else self.softcap * torch.tanh(outputs_NV / self.softcap)

    def chunks(self, states_NH: torch.Tensor, *columns_N: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """States, and what belongs to them, of so many tokens at a time as logits are made of at once."""
        weight = getattr(self.module, "weight", None)
        size = max(1, CHUNK_LOGITS // (states_NH.shape[-1] if weight is None else len(weight)))
        return zip(*(column.split(size) for column in (states_NH, *columns_N)), strict=True)


_HEADS: WeakKeyDictionary[Any, Head] = WeakKeyDictionary()


def head_of(model: Any) -> Head:
    """The head of a model, tried once against the logits of its forward pass."""
    if model not in _HEADS:
        _HEADS[model] = _tried_head(model)
    return _HEADS[model]


def _tried_head(model: Any) -> Head:
    module = model.get_output_embeddings()
    if module is None:
        return Head()
    outputs: list[torch.Tensor] = []

    def spread(states_BTH: torch.Tensor) -> torch.Tensor:
        # Far apart: a new model's own outputs are so near 0 that a softcap does nothing to them yet.
        outputs_BTV = module(states_BTH)
        outputs.append(torch.linspace(*OUTPUTS_TRIED, outputs_BTV.numel()).view_as(outputs_BTV).to(outputs_BTV))
        return outputs[0]

    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids_BT = torch.tensor([[number % vocabulary for number in range(1, 5)]], device=model.device)
    with torch.no_grad(), _forward_replaced(module, spread):
        logits_BTV = model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False).logits
    possible = _possible_heads(module, model.config.get_text_config())
    return next((head for head in possible if outputs and _is_close(head.finished(outputs[0]), logits_BTV)), Head())


def _possible_heads(module: torch.nn.Module, config: Any) -> Iterator[Head]:
    """The ways in which models of transformers make logits of what their head gives."""
    yield Head(module)
    if softcap := getattr(config, "final_logit_softcapping", None):
        yield Head(module, softcap=softcap)
    if scale := getattr(config, "logit_scale", None):
        yield Head(module, scale)
    if divisor := getattr(config, "logits_scaling", None):
        yield Head(module, 1 / divisor)


def _is_close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    tolerance = 1e-5 if found.dtype in (torch.float32, torch.float64) else 1e-2
    return found.shape == wanted.shape and torch.allclose(
        in_float64(found), in_float64(wanted), rtol=tolerance, atol=tolerance
    )


@contextmanager
def _forward_replaced(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, the module does this when it is called; within that, it is what it was."""
    own = module.__dict__.get("forward")

    def put_back() -> None:
        module.__dict__.pop("forward", None)
        if own is not None:
            module.forward = own

    def once(*args: Any, **kwargs: Any) -> Any:
        put_back()
        return forward(*args, **kwargs)

    module.forward = once
    try:
        yield
    finally:
        put_back()


def _score_states(head: Head, states_NH: torch.Tensor, targets_N: torch.Tensor, anchor: Anchor | None) -> TokenScores:
    if linear := head.linear():
        return _score_linearly(linear, states_NH, targets_N, anchor)

    def score(states_nH: torch.Tensor, targets_n: torch.Tensor, *anchored: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits_nV = head.logits(states_nH)
        logps_n = token_logps(logits_nV, targets_n)
        kl_n = torch.zeros_like(logps_n)
        if anchor is not None:
            states_nA, wanted_n = anchored
            kl_n = _add_kl(kl_n, logits_nV, anchor._replace(states_NH=states_nA, wanted_N=wanted_n))
        return logps_n, kl_n

    parts = list(head.chunks(states_NH, targets_N, *((anchor.states_NH, anchor.wanted_N) if anchor else ())))
    is_remade = len(parts) > 1 and torch.is_grad_enabled()
    scores = [checkpoint(score, *part, use_reentrant=False) if is_remade else score(*part) for part in parts]
    logps_N, kl_N = (torch.cat(column) for column in zip(*scores, strict=True))
    return TokenScores(logps_N, kl_N, states_NH.detach())


def _score_linearly(
    linear: LinearHead, states_NH: torch.Tensor, targets_N: torch.Tensor, anchor: Anchor | None
) -> TokenScores:
    def anchored(rows: slice, wanted_n: torch.Tensor) -> torch.Tensor:
        assert anchor is not None
        return _anchored_logits(anchor, anchor.states_NH[rows][wanted_n])

    size = max(1, CHUNK_LOGITS // len(linear.weight_VH))
    wanted_N = anchor.wanted_N if anchor else None
    logps_N, kl_N = linear_scores(linear, states_NH, targets_N, wanted_N, anchored if anchor else None, size)
    return TokenScores(logps_N, kl_N, states_NH.detach())


def _add_kl(kl_n: torch.Tensor, logits_nV: torch.Tensor, anchor: Anchor) -> torch.Tensor:
    wanted_n = anchor.wanted_N
    if not wanted_n.any():
        return kl_n
    anchored_kV = _anchored_logits(anchor, anchor.states_NH[wanted_n])
    return kl_n.masked_scatter(wanted_n, token_kl(logits_nV[wanted_n], anchored_kV))


def _anchored_logits(anchor: Anchor, states_kH: torch.Tensor) -> torch.Tensor:
    head = anchor.head or head_of(anchor.model)
    # A head that adapters have a part in is the anchor's own while that is at work.
    is_adapted = hasattr(head.module, "active_adapters") and hasattr(anchor.model, "at_work")
    with torch.no_grad(), anchor.model.at_work() if is_adapted else nullcontext():
        return head.logits(states_kH)
