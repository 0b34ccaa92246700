"""What a model says of responses that somebody else has sampled from it: were they, and as was asked?

A response that is drawn from a distribution q surprises by −log q, whose mean is q's entropy H, token by token. So the
sum of −log q − H over what was drawn has mean 0 and a known variance: who decodes greedily, cools, cuts the tail or has
other weights is seen by it, whatever the model.

Shapes: B responses, N tokens of all of them in their order, n of them in a chunk, M that the model runs over, H width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from align_cli.models.head import head_of, in_passing
from align_cli.models.layout import lay_out
from align_cli.models.memory import out_of_memory_as_memory_error
from align_cli.models.scoring import pad_batch

if TYPE_CHECKING:
    from align_cli.models.load import Policy

Warp = Callable[[torch.Tensor], torch.Tensor]
"""Turns logits (n, V) into those that are sampled from; -inf for what never is."""


class SampledTokens(NamedTuple):
    """What a model says of a response's tokens, in nats, one number a token.

    Args:
        logps: log q of each, under the distribution that was asked for; -inf for what it never draws.
        policy_logps: log π of each: the model's own, at temperature 1 and whole.
        entropies: of q at each place.
        variances: of −log q at each place.
        largest: log q of the likeliest token at each place.
    """

    logps: list[float]
    policy_logps: list[float]
    entropies: list[float]
    variances: list[float]
    largest: list[float]


def sampled_tokens(
    policy: Policy, prompts: Sequence[list[int]], responses: Sequence[list[int]], warp: Warp, batch_size: int
) -> list[SampledTokens]:
    """Forward passes over responses, without gradient.

    Args:
        policy: the model that they are to have come from.
        prompts: token ids, none empty.
        responses: likewise.
        warp: how logits are turned into those that are sampled from.
        batch_size: sequences a forward pass; it is cut in half where the memory does not hold so many.

    Raises:
        MemoryError: if it does not hold one.
    """
    found: list[SampledTokens] = []
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        found += _in_parts(policy, prompts[rows], responses[rows], warp)
    return found


def _in_parts(
    policy: Policy, prompts: Sequence[list[int]], responses: Sequence[list[int]], warp: Warp
) -> list[SampledTokens]:
    try:
        with out_of_memory_as_memory_error():
            return _one_pass(policy, prompts, responses, warp)
    except MemoryError:
        if len(prompts) == 1:
            raise
    half = (len(prompts) + 1) // 2
    first = _in_parts(policy, prompts[:half], responses[:half], warp)
    return first + _in_parts(policy, prompts[half:], responses[half:], warp)


def _one_pass(
    policy: Policy, prompts: Sequence[list[int]], responses: Sequence[list[int]], warp: Warp
) -> list[SampledTokens]:
    tokens = pad_batch(prompts, responses, policy.tokenizer.pad_token_id).to(policy.model.device)
    targets_N = tokens.input_ids_BT[:, 1:][tokens.completion_mask_BT[:, 1:].bool()]
    layout, head = lay_out(policy.model, tokens), head_of(policy.model)

    def read(states_MH: torch.Tensor) -> tuple[torch.Tensor, ...]:
        chunks = head.chunks(layout.for_batch(states_MH), targets_N)
        parts = [_figures(head.logits(states_nH).float(), warp, targets_n) for states_nH, targets_n in chunks]
        return tuple(map(torch.cat, zip(*parts, strict=True)))

    with torch.no_grad():
        columns_N = in_passing(policy.model, head, layout.tokens, read)
    columns = [column_N.split([len(one) for one in responses]) for column_N in columns_N]
    return [SampledTokens(*(column[row].tolist() for column in columns)) for row in range(len(responses))]


def _figures(logits_nV: torch.Tensor, warp: Warp, targets_n: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The columns of `SampledTokens`."""
    logq_nV = warp(logits_nV).log_softmax(-1)
    probabilities_nV = logq_nV.exp()
    surprise_nV = torch.where(probabilities_nV > 0, -logq_nV, 0.0)
    entropies_n = (probabilities_nV * surprise_nV).sum(-1)
    variances_n = (probabilities_nV * (surprise_nV - entropies_n[:, None]) ** 2).sum(-1)
    picked = targets_n[:, None]
    logps_n, own_n = (of_nV.gather(-1, picked).squeeze(-1) for of_nV in (logq_nV, logits_nV.log_softmax(-1)))
    return logps_n, own_n, entropies_n, variances_n, logq_nV.amax(-1)
