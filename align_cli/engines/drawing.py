"""How tokens are drawn: transformers' warpers, then the cumulative distribution inverted at the request's own number.

Every request has a generator of its own, one uniform number a token. Whoever runs the model, its tokens are drawn and
kept here. Tokens' weights are taken in the logits' single precision and summed in double: a log-probability is that of
the logits to about 1e-7.

Shapes: B sequences, R of them that are still drawn for, V vocabulary, N new tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.errors import AlignError
from align_cli.models.devices import has_float64

if TYPE_CHECKING:
    from align_cli.models.load import Policy

Warper = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes what stands before, which none of ours looks at, and logits; gives those that are sampled from."""


class Draws:
    """What is drawn for a batch of requests, token by token.

    Args:
        policy: whose tokens they are.
        requests: what is asked for.
        settings: how it is sampled.
        heard: called with all tokens so far of a single request; what it raises ends the sampling.
    """

    def __init__(
        self,
        policy: Policy,
        requests: Sequence[Request],
        settings: SamplingSettings,
        heard: Callable[[list[int]], None] | None = None,
    ) -> None:
        device = policy.model.device
        place = device if has_float64(device) else torch.device("cpu")
        self._policy, self._heard, self._warpers = policy, heard, warpers(settings)
        self._ends = torch.tensor(policy.eos_token_ids, device=place)
        self._uniforms_BN = _uniforms([each.seed for each in requests], settings.max_new_tokens).to(place)
        self._tokens_BN = torch.zeros_like(self._uniforms_BN, dtype=torch.long)
        self._logps_BN = torch.zeros_like(self._uniforms_BN)
        self._number = 0
        self._sequence_R = torch.arange(len(requests), device=place)
        self._has_ended_R = torch.zeros(len(requests), dtype=torch.bool, device=place)

    def draw(self, logits_RV: torch.Tensor) -> torch.Tensor:
        """(R,) the next token of each sequence that did not leave, from the model's logits and on their device."""
        scores_RV = logits_RV.float()
        for warper in self._warpers:
            scores_RV = warper(self._tokens_BN, scores_RV)
        place = self._sequence_R, self._number
        tokens_R, logps_R = draw(scores_RV.to(self._tokens_BN.device), self._uniforms_BN[place])
        self._tokens_BN[place], self._logps_BN[place] = tokens_R, logps_R
        self._has_ended_R |= torch.isin(tokens_R, self._ends)
        self._number += 1
        if self._heard:
            self._heard(self._tokens_BN[0, : self._number].tolist())
        return tokens_R.to(logits_RV.device)

    def part_ended(self) -> float:
        """How large a part of the R has ended."""
        return int(self._has_ended_R.sum()) / len(self._has_ended_R)

    def let_ended_leave(self) -> torch.Tensor:
        """Nothing more is drawn for those of the R that have ended; which stay, counted among the R so far."""
        staying = (~self._has_ended_R).nonzero().squeeze(1)
        self._sequence_R, self._has_ended_R = self._sequence_R[staying], self._has_ended_R[staying]
        return staying

    def samples(self) -> list[Sample]:
        """The responses, each cut behind its end.

        Raises:
            AlignError: if the model's logits were not finite.
        """
        if not self._logps_BN.isfinite().all():
            raise AlignError(
                "the policy's logits are not finite: training has diverged, or the weights that were given are damaged",
                where=f"policy {self._policy.version}",
                hint="lower train.learning_rate, raise method.beta, and go on from an earlier round; a model that was "
                "not trained yet: fetch or save it again",
            )
        tokens, logps = (drawn_BN[:, : self._number].tolist() for drawn_BN in (self._tokens_BN, self._logps_BN))
        return [_sample(*row, self._policy.eos_token_ids) for row in zip(tokens, logps, strict=True)]


class Drawn(NamedTuple):
    """One token of each sequence.

    Args:
        tokens_B: their ids.
        logps_B: their log-probabilities under the sampling distribution, in nats and double precision; NaN where the
            logits are not finite.
    """

    tokens_B: torch.Tensor
    logps_B: torch.Tensor


def draw(logits_BV: torch.Tensor, uniforms_B: torch.Tensor) -> Drawn:
    """A token of each sequence.

    Args:
        logits_BV: warped, in single precision, on a device that has double precision; -inf for what is never drawn.
        uniforms_B: in [0, 1), in double precision.
    """
    largest_B1 = logits_BV.amax(-1, keepdim=True)
    weights_BV = (logits_BV - largest_B1).exp()
    tokens_B1 = invert_cdf(weights_BV, uniforms_B[:, None])
    log_total_B1 = weights_BV.sum(-1, keepdim=True, dtype=torch.float64).log()
    logps_B1 = logits_BV.gather(-1, tokens_B1).double() - largest_B1.double() - log_total_B1
    return Drawn(tokens_B1.squeeze(-1), logps_B1.squeeze(-1))


def invert_cdf(weights_BV: torch.Tensor, uniforms_B1: torch.Tensor) -> torch.Tensor:
    """The token in whose stretch of the cumulative distribution the uniform number falls.

    Args:
        weights_BV: of the tokens, at least 0; need not sum to 1.
        uniforms_B1: in [0, 1), in double precision.

    Returns:
        (B, 1) token ids, never one of weight 0.
    """
    cumulative_BV = weights_BV.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cumulative_BV, uniforms_B1 * cumulative_BV[:, -1:], right=True).clamp(
        max=weights_BV.shape[-1] - 1
    )


def _sample(token_ids: list[int], logps: list[float], eos_token_ids: list[int]) -> Sample:
    """Cut a row behind its first end-of-sequence token."""
    ends = [position for position, token_id in enumerate(token_ids) if token_id in eos_token_ids]
    length = ends[0] + 1 if ends else len(token_ids)
    return Sample(token_ids[:length], logps[:length], "stop" if ends else "length")


def warpers(settings: SamplingSettings) -> list[Warper]:
    """How logits become those that are sampled from: transformers' own, in its own order.

    `generate` adds none because it does not know that we sample.
    """
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    found: list[Warper] = []
    if settings.temperature != 1:
        found.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        found.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        found.append(TopPLogitsWarper(settings.top_p))
    return found


def _uniforms(seeds: Sequence[int], max_new_tokens: int) -> torch.Tensor:
    """(B, N): the numbers in [0, 1) that decide each sequence's tokens, in double precision and on the CPU."""
    generators = [random.Random(seed) for seed in seeds]
    numbers = [[generator.random() for _ in range(max_new_tokens)] for generator in generators]
    return torch.tensor(numbers, dtype=torch.float64)
