"""Log-probabilities and KL of a linear head, whose gradient is two matrix products and one pass over its logits.

autograd would keep what softmax, gather and logsumexp each want, and make a zero for every token of the vocabulary to
put one number into. Here the softmax alone is kept, of as many tokens as there is room for; of others it is made again.

    d log p(target) / d logits = e_target − p            d KL / d logits = p · (log p − log p_ref − KL)

Shapes: N response tokens, n of them in a chunk, k of those whose KL is wanted, V vocabulary, H width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch

KEPT_NUMBERS = 2**26
"""The most that is kept for the gradient, numbers for every token of the vocabulary: 256 MiB in float32."""


class LinearHead(NamedTuple):
    """How logits are made: scale · (states · weightᵀ + bias).

    Args:
        weight_VH: of the head.
        bias_V: likewise; None for none.
        scale: what its outputs are multiplied by.
    """

    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None
    scale: float


Anchored = Callable[[slice, torch.Tensor], torch.Tensor]
"""The anchor's logits (k, V) at those tokens of a chunk (a slice of the N) that are wanted (n,)."""


class _Found(NamedTuple):
    """What is found of some tokens, and what its gradient is made of."""

    logps_n: torch.Tensor
    kl_n: torch.Tensor
    softmax_nV: torch.Tensor
    kl_gradient_kV: torch.Tensor

    @classmethod
    def room(cls, wanted_n: torch.Tensor, vocabulary: int, dtype: torch.dtype) -> Self:
        """For so many tokens, of which the KL is wanted of some."""
        size, device = len(wanted_n), wanted_n.device
        sizes = (size,), (size,), (size, vocabulary), (int(wanted_n.sum()), vocabulary)
        return cls(*(torch.empty(shape, dtype=dtype, device=device) for shape in sizes))

    def part(self, rows: slice, wanted_n: torch.Tensor) -> Self:
        """The room of some of them."""
        before = int(wanted_n[: rows.start].sum())
        wanted = slice(before, before + int(wanted_n[rows].sum()))
        return type(self)(self.logps_n[rows], self.kl_n[rows], self.softmax_nV[rows], self.kl_gradient_kV[wanted])


def linear_scores(
    head: LinearHead,
    states_NH: torch.Tensor,
    targets_N: torch.Tensor,
    wanted_N: torch.Tensor | None,
    anchored: Anchored | None,
    chunk_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of each target, and the exact KL to an anchor where it is wanted, 0 elsewhere: (N,) each, with gradient.

    Args:
        head: what makes logits of states.
        states_NH: what it is given.
        targets_N: token ids.
        wanted_N: where the KL is wanted; None for nowhere.
        anchored: the anchor's logits; None for none.
        chunk_size: tokens whose logits are made at once.
    """
    device = states_NH.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states_NH.dtype
    if wanted_N is None or anchored is None:
        wanted_N = torch.zeros_like(targets_N, dtype=torch.bool)
    found: tuple[torch.Tensor, torch.Tensor] = _LinearScores.apply(
        states_NH, head.weight_VH, head.bias_V, targets_N, wanted_N, anchored, head.scale, chunk_size, dtype
    )
    return found


class _LinearScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        wanted_N: torch.Tensor,
        anchored: Anchored | None,
        scale: float,
        chunk_size: int,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tensors = states_NH, weight_VH, bias_V, targets_N, wanted_N
        ctx.save_for_backward(*tensors)
        ctx.settings = anchored, scale, chunk_size, dtype
        vocabulary, wide = len(weight_VH), torch.promote_types(dtype, torch.float32)
        num_kept = _num_kept(wanted_N, KEPT_NUMBERS // vocabulary) if any(ctx.needs_input_grad) else 0
        ctx.kept = _Found.room(wanted_N[:num_kept], vocabulary, wide)
        for rows in _chunks(0, num_kept, chunk_size):
            _score(rows, tensors, ctx.settings, ctx.kept.part(rows, wanted_N))
        found = [ctx.kept]
        for rows in _chunks(num_kept, len(states_NH), chunk_size):
            room = _Found.room(wanted_N[rows], vocabulary, wide)
            _score(rows, tensors, ctx.settings, room)
            found.append(
                room._replace(softmax_nV=room.logps_n, kl_gradient_kV=room.logps_n)
            )  # lets go of the large ones
        return torch.cat([each.logps_n for each in found]), torch.cat([each.kl_n for each in found])

    @staticmethod
    def backward(ctx: Any, *gradients_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states_NH, weight_VH, bias_V, targets_N, wanted_N = tensors = ctx.saved_tensors
        _, scale, chunk_size, dtype = ctx.settings
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        wide, weight = torch.promote_types(dtype, torch.float32), weight_VH.to(dtype)
        d_states_NH = torch.empty_like(states_NH) if wants_states else None
        d_weight_VH = torch.zeros_like(weight_VH) if wants_weight else None
        d_bias_V = torch.zeros_like(bias_V) if wants_bias else None

        def add_gradient_of(rows: slice, found: _Found) -> None:
            d_logp_n, d_kl_n = (gradient_N[rows].to(wide) for gradient_N in gradients_N)
            d_nV = found.softmax_nV.mul_(-d_logp_n[:, None])
            d_nV.scatter_add_(1, targets_N[rows, None], d_logp_n[:, None])
            if len(found.kl_gradient_kV):
                places_k = wanted_N[rows].nonzero().squeeze(1)
                d_nV.index_add_(0, places_k, found.kl_gradient_kV.mul_(d_kl_n[places_k, None]))
            d_nV = (d_nV if scale == 1 else d_nV.mul_(scale)).to(dtype)
            if d_states_NH is not None:
                d_states_NH[rows] = (d_nV @ weight).to(states_NH.dtype)
            if d_weight_VH is not None:
                _add_product(d_weight_VH, d_nV.T, states_NH[rows].to(dtype))
            if d_bias_V is not None:
                d_bias_V.add_(d_nV.sum(0))

        kept, ctx.kept = ctx.kept, _Found.room(wanted_N[:0], len(weight_VH), wide)  # what is used is used up
        num_kept = len(kept.logps_n)
        add_gradient_of(slice(0, num_kept), kept)  # at once: the weight's gradient is read and written for each product
        del kept
        for rows in _chunks(num_kept, len(states_NH), chunk_size):
            room = _Found.room(wanted_N[rows], len(weight_VH), wide)
            _score(rows, tensors, ctx.settings, room)
            add_gradient_of(rows, room)
        return d_states_NH, d_weight_VH, d_bias_V, None, None, None, None, None, None


def _num_kept(wanted_N: torch.Tensor, most: int) -> int:
    """How many tokens, from the first on, are kept in so many rows: one each, and one more for a KL."""
    return int(((1 + wanted_N.long()).cumsum(0) <= most).sum())


def _score(rows: slice, tensors: Sequence[Any], settings: tuple[Any, ...], into: _Found) -> None:
    states_NH, weight_VH, bias_V, targets_N, wanted_N = tensors
    anchored, scale, _, dtype = settings
    logits_nV = states_NH[rows].to(dtype) @ weight_VH.to(dtype).T
    logits_nV = (logits_nV if bias_V is None else logits_nV.add_(bias_V.to(dtype))).to(into.softmax_nV.dtype)
    if scale != 1:
        logits_nV.mul_(scale)
    torch.log_softmax(logits_nV, -1, out=into.softmax_nV)
    del logits_nV
    into.logps_n.copy_(into.softmax_nV.gather(-1, targets_N[rows, None]).squeeze(-1))
    into.kl_n.zero_()
    wanted_n = wanted_N[rows]
    if not len(into.kl_gradient_kV):
        into.softmax_nV.exp_()
        return
    ratios_kV = torch.sub(
        into.softmax_nV[wanted_n],
        anchored(rows, wanted_n).to(into.softmax_nV.dtype).log_softmax(-1),
        out=into.kl_gradient_kV,
    )
    softmax_kV = into.softmax_nV.exp_()[wanted_n]
    kl_k = (softmax_kV * ratios_kV).sum(-1)  # no product that autocast would round
    into.kl_n[wanted_n] = kl_k
    ratios_kV.sub_(kl_k[:, None]).mul_(softmax_kV)


def _chunks(first: int, end: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, end)) for start in range(first, end, size))


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left · right, without a matrix in between where their types are one."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
