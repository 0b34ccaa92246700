"""Log-probabilities and KL of a linear head, whose gradient is two matrix products and one pass over its logits.

autograd would keep what softmax, gather and logsumexp each want, and make a zero for every token of the vocabulary to
put one number into. Here the softmax alone is kept, where it is small; else it is made again.

    d log p(target) / d logits = e_target − p            d KL / d logits = p · (log p − log p_ref − KL)

Shapes: N response tokens, n of them in a chunk, k of those whose KL is wanted, V vocabulary, H width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

KEPT_NUMBERS = 2**26
"""The most that is kept for the gradient, a number a token of the vocabulary: 256 MiB in float32."""


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


class _Chunk(NamedTuple):
    """What is found of a chunk, and what its gradient is made of."""

    logps_n: torch.Tensor
    kl_n: torch.Tensor
    softmax_nV: torch.Tensor
    kl_gradient_kV: torch.Tensor | None


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
        wanted_N: torch.Tensor | None,
        anchored: Anchored | None,
        scale: float,
        chunk_size: int,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tensors = states_NH, weight_VH, bias_V, targets_N, wanted_N
        ctx.save_for_backward(*tensors)
        ctx.settings = anchored, scale, chunk_size, dtype
        num_kept = len(states_NH) + (0 if wanted_N is None else int(wanted_N.sum()))
        keeps = any(ctx.needs_input_grad) and num_kept * len(weight_VH) <= KEPT_NUMBERS
        ctx.kept = [] if keeps else None
        found = []
        for rows in _chunks(len(states_NH), chunk_size):
            chunk = _scored(rows, tensors, ctx.settings)
            found.append(chunk[:2])
            if keeps:
                ctx.kept.append(chunk)
        logps, kl = zip(*found, strict=True) if found else ([states_NH.new_zeros(0)],) * 2
        return torch.cat(logps), torch.cat(kl)

    @staticmethod
    def backward(ctx: Any, *gradients_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states_NH, weight_VH, bias_V, targets_N, wanted_N = tensors = ctx.saved_tensors
        _, scale, chunk_size, dtype = ctx.settings
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        wide, weight = torch.promote_types(dtype, torch.float32), weight_VH.to(dtype)
        d_states_NH = torch.empty_like(states_NH) if wants_states else None
        d_weight_VH = torch.zeros_like(weight_VH) if wants_weight else None
        d_bias_V = torch.zeros_like(bias_V) if wants_bias else None
        for number, rows in enumerate(_chunks(len(states_NH), chunk_size)):
            if ctx.kept is None:
                chunk = _scored(rows, tensors, ctx.settings)
            else:
                chunk, ctx.kept[number] = ctx.kept[number], None
            d_logp_n, d_kl_n = (gradient_N[rows].to(wide) for gradient_N in gradients_N)
            d_nV = chunk.softmax_nV.mul_(-d_logp_n[:, None])
            d_nV.scatter_add_(1, targets_N[rows, None], d_logp_n[:, None])
            if chunk.kl_gradient_kV is not None:
                places_k = wanted_N[rows].nonzero().squeeze(1)
                d_nV.index_add_(0, places_k, chunk.kl_gradient_kV.mul_(d_kl_n[places_k, None]))
            d_nV = (d_nV if scale == 1 else d_nV.mul_(scale)).to(dtype)
            if d_states_NH is not None:
                d_states_NH[rows] = (d_nV @ weight).to(states_NH.dtype)
            if d_weight_VH is not None:
                _add_product(d_weight_VH, d_nV.T, states_NH[rows].to(dtype))
            if d_bias_V is not None:
                d_bias_V += d_nV.sum(0)
        ctx.kept = None
        return d_states_NH, d_weight_VH, d_bias_V, None, None, None, None, None, None


def _scored(rows: slice, tensors: Sequence[Any], settings: tuple[Any, ...]) -> _Chunk:
    states_NH, weight_VH, bias_V, targets_N, wanted_N = tensors
    anchored, scale, _, dtype = settings
    wide = torch.promote_types(dtype, torch.float32)
    logits_nV = states_NH[rows].to(dtype) @ weight_VH.to(dtype).T
    logits_nV = (logits_nV if bias_V is None else logits_nV.add_(bias_V.to(dtype))).to(wide)
    if scale != 1:
        logits_nV.mul_(scale)
    normalizers_n = logits_nV.logsumexp(-1)
    logps_n = logits_nV.gather(-1, targets_N[rows, None]).squeeze(-1) - normalizers_n
    kl_n = torch.zeros_like(logps_n)
    logits_nV.sub_(normalizers_n[:, None])
    if wanted_N is None or anchored is None or not wanted_N[rows].any():
        return _Chunk(logps_n, kl_n, logits_nV.exp_(), None)
    wanted_n = wanted_N[rows]
    ratios_kV = logits_nV[wanted_n].sub_(anchored(rows, wanted_n).to(wide).log_softmax(-1))
    softmax_nV = logits_nV.exp_()
    softmax_kV = softmax_nV[wanted_n]
    kl_k = (softmax_kV * ratios_kV).sum(-1)  # no product that autocast would round
    kl_n[wanted_n] = kl_k
    return _Chunk(logps_n, kl_n, softmax_nV, ratios_kV.sub_(kl_k[:, None]).mul_(softmax_kV))


def _chunks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left · right, without a matrix in between where their types are one."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
