"""Are responses what was asked for? What the trainer says of them, beside what the server said.

Some responses, or all where the server gave no log-probabilities or where its own lie too far from the trainer's, are
read by the policy itself. What that shows stands in the round's figures; what cannot be chance is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.engines.base import Request, Sample, SamplingSettings, Settled
from align_cli.engines.drawing import warpers
from align_cli.engines.server.answers import by_prompt
from align_cli.errors import EngineError
from align_cli.models.sampled import SampledTokens, sampled_tokens
from align_cli.recipe.sections.engine_server import PLACE, ServerEngineSection

if TYPE_CHECKING:
    import torch

    from align_cli.models.load import Policy

LEAST_CHANCE = 1e-6
"""What is less likely than this, if responses are what was asked for, is an error."""
SURPRISE_DEVIATIONS, SURPRISE_NATS = 6.0, 0.05
"""How far the mean surprise may lie off: standard deviations, and nats a token; both have to be exceeded."""
SURPRISE_NATS_OF_TEXT = 0.2
"""Of text that was tokenised again, whose tokens are not all those that were sampled."""
OTHER_WEIGHTS_NATS = 0.5
"""Nats a token between two sets of log-probabilities that are not those of the same weights."""
UNDRAWABLE_PART = 0.02
"""The part of tokens that may lie outside of top_k and top_p as the trainer cuts: borders are rounded."""
TIE_NATS = 0.05
"""How near to the likeliest token another one is taken for it, by a model of another precision."""
GREEDY_PART = 0.98
"""The part of the likeliest tokens from which on a server is called greedy."""
FEWEST_TOKENS = 8
"""With fewer of them nothing is said of weights."""


class Compared(NamedTuple):
    """A response as the trainer reads it, beside what the server said.

    Args:
        sample: the response.
        tokens: what the policy says of it.
    """

    sample: Sample
    tokens: SampledTokens


class Review:
    """How the responses of one policy are looked at.

    Args:
        policy: whose they are to be.
        settings: how they were asked for.
        section: bounds.
        batch_size: sequences a forward pass.
        note: told where log-probabilities are made anew.
    """

    def __init__(
        self,
        policy: Policy,
        settings: SamplingSettings,
        section: ServerEngineSection,
        batch_size: int,
        note: Callable[[str], None],
    ) -> None:
        self._policy, self._settings, self._section = policy, settings, section
        self._batch_size, self._note = batch_size, note

    def check_weights(self, prompt_ids: list[int], samples: Sequence[Sample], base_url: str) -> None:
        """Whether a server that was just tried has the policy's weights, by the log-probabilities that it gave.

        Raises:
            EngineError: if not.
        """
        given = [sample for sample in samples if sample.logps]
        compared = self._compare([prompt_ids] * len(given), given)
        if sum(len(one.sample.token_ids) for one in compared) >= FEWEST_TOKENS:
            self._check_same_weights(compared, f"the server at {base_url}")

    def settle(self, requests: Sequence[Request], samples: Sequence[Sample]) -> Settled:
        """Compare, make log-probabilities anew where they lack or lie too far off, and look for what is wrong.

        Raises:
            EngineError: if what came cannot be what was asked for.
        """
        chosen = self._chosen(samples)
        found = self._compared(chosen, requests, samples)
        given = [one for one in found.values() if one.sample.logps]
        figures: dict[str, Any] = {"compared_responses": len(found)}
        if given:
            self._check_same_weights(given, "the servers")
            figures["logp_difference"] = _difference(given)
        anew = self._needs_anew(samples, figures.get("logp_difference"))
        found |= self._compared(sorted(anew - found.keys()), requests, samples)
        settled = [one._replace(logps=_logps_of(found[at])) if at in anew else one for at, one in enumerate(samples)]
        figures |= {"recomputed": len(anew), "from_text": sum(sample.from_text for sample in samples)}
        figures |= self._check_sampling([found[at] for at in sorted(found)])
        figures |= _check_equal(requests, settled)
        return Settled(settled, figures)

    def _chosen(self, samples: Sequence[Sample]) -> list[int]:
        """Responses to compare, evenly spaced among all."""
        wanted = self._section.compared_responses or len(samples)
        return list(range(0, len(samples), max(1, math.ceil(len(samples) / wanted))))

    def _compared(
        self, places: Sequence[int], requests: Sequence[Request], samples: Sequence[Sample]
    ) -> dict[int, Compared]:
        compared = self._compare([requests[at].prompt_ids for at in places], [samples[at] for at in places])
        return dict(zip(places, compared, strict=True))

    def _compare(self, prompts: Sequence[list[int]], samples: Sequence[Sample]) -> list[Compared]:
        asked = warpers(self._settings)

        def warp(logits_nV: torch.Tensor) -> torch.Tensor:
            for warper in asked:
                logits_nV = warper(logits_nV, logits_nV)
            return logits_nV

        responses = [sample.token_ids for sample in samples]
        tokens = sampled_tokens(self._policy, prompts, responses, warp, self._batch_size)
        return [Compared(*one) for one in zip(samples, tokens, strict=True)]

    def _check_same_weights(self, compared: Sequence[Compared], who: str) -> None:
        """Whether log-probabilities are those of the policy, as it is sampled or as it is."""
        num_tokens = sum(len(one.sample.token_ids) for one in compared)
        off = min(
            sum(abs(theirs - ours) for one in compared for theirs, ours in zip(one.sample.logps, of(one), strict=True))
            for of in (lambda one: one.tokens.logps, lambda one: one.tokens.policy_logps)
        )
        if off / num_tokens > OTHER_WEIGHTS_NATS:
            raise EngineError(
                f"{who} and the policy differ by {off / num_tokens:.2f} nats a token over the same responses: these "
                "are other weights, or other settings of sampling than were asked for",
                where=PLACE,
                hint="let them have the round's weights (generate.server.update), or start them with the policy's",
            )

    def _needs_anew(self, samples: Sequence[Sample], difference: dict[str, float] | None) -> set[int]:
        """The responses whose log-probabilities the trainer makes."""
        most = self._section.max_logp_difference
        if difference is not None and difference["mean"] > most:
            self._note(
                f"generate: the servers' log-probabilities lie {difference['mean']:.3g} nats a response off the "
                f"trainer's (generate.server.max_logp_difference is {most:g}): the trainer's count"
            )
            return set(range(len(samples)))
        return {at for at, sample in enumerate(samples) if not sample.logps}

    def _check_sampling(self, compared: Sequence[Compared]) -> dict[str, Any]:
        """Whether responses surprise the policy as often as its own do.

        Raises:
            EngineError: if they cannot have been drawn as was asked.
        """
        drawn = [token for one in compared for token in zip(*one.tokens, strict=True) if token[0] > -math.inf]
        num_tokens = sum(len(one.sample.token_ids) for one in compared)
        if (undrawable := 1 - len(drawn) / num_tokens) > UNDRAWABLE_PART:
            raise _not_as_asked(
                f"{undrawable:.0%} of the tokens are none that generate.top_k {self._settings.top_k} and "
                f"generate.top_p {self._settings.top_p:g} leave"
            )
        greedy = _greedy(drawn)
        off = math.fsum(-logp - entropy for logp, _, entropy, _, _ in drawn)
        deviation = math.sqrt(math.fsum(variance for _, _, _, variance, _ in drawn))
        mean, deviations = off / len(drawn), off / deviation if deviation else 0.0
        if greedy.is_certain:
            raise _not_as_asked(
                f"{greedy.part:.1%} of the tokens are the likeliest ones, where {greedy.expected:.1%} would be at "
                f"generate.temperature {self._settings.temperature:g}: the answers are greedy"
            )
        most = SURPRISE_NATS_OF_TEXT if any(one.sample.from_text for one in compared) else SURPRISE_NATS
        if abs(deviations) > SURPRISE_DEVIATIONS and abs(mean) > most:
            likely, causes = (
                ("likelier", "a lower temperature, top_k, top_p or min_p")
                if mean < 0
                else ("less likely", "a higher temperature, penalties, or other weights")
            )
            raise _not_as_asked(
                f"the responses are {likely} than draws as they were asked for would be, by {abs(mean):.2f} nats a "
                f"token ({abs(deviations):.0f} standard deviations): {causes}"
            )
        return {
            "surprise": {"mean": mean, "deviations": deviations},
            "greedy_tokens": {"part": greedy.part, "expected": greedy.expected},
        }


class _Greedy(NamedTuple):
    part: float
    expected: float
    is_certain: bool


def _greedy(drawn: Sequence[tuple[float, ...]]) -> _Greedy:
    """How many tokens are the likeliest at their places, and how many would be."""
    num_likeliest = sum(logp >= largest - TIE_NATS for logp, _, _, _, largest in drawn)
    chances = [math.exp(min(largest, 0.0)) for _, _, _, _, largest in drawn]
    expected, variance = math.fsum(chances), math.fsum(chance * (1 - chance) for chance in chances)
    is_far = num_likeliest - expected > SURPRISE_DEVIATIONS * math.sqrt(variance) + 1
    part = num_likeliest / len(drawn)
    return _Greedy(part, expected / len(drawn), part > GREEDY_PART and is_far)


def _difference(compared: Sequence[Compared]) -> dict[str, float]:
    """How far the server's log-probabilities lie off the trainer's, in nats.

    Returns:
        `mean` and `largest` distance of a response, `largest_token` of a token, and `kl`, the estimate of
        KL(server ‖ trainer) a token, which is the mean of their difference over tokens that the server drew.
    """
    rows = [
        [theirs - ours for theirs, ours in zip(one.sample.logps, one.tokens.logps, strict=True) if ours > -math.inf]
        for one in compared
    ]
    sums, tokens = [abs(math.fsum(row)) for row in rows], [value for row in rows for value in row]
    return {
        "mean": math.fsum(sums) / len(sums),
        "largest": max(sums),
        "largest_token": max(map(abs, tokens), default=0.0),
        "kl": math.fsum(tokens) / max(len(tokens), 1),
    }


def _logps_of(one: Compared) -> list[float]:
    """The trainer's log-probabilities; the model's own of a token that is never drawn as was asked."""
    pairs = zip(one.tokens.logps, one.tokens.policy_logps, strict=True)
    return [logp if logp > -math.inf else own for logp, own in pairs]


def _check_equal(requests: Sequence[Request], samples: Sequence[Sample]) -> dict[str, float]:
    """How many prompts have equal responses alone.

    Two draws are equal with the first one's probability, and n of them with its (n - 1)th power: so many of them are
    expected, and of k that are found, more than that, the chance is at most (e · expected / k)^k.

    Raises:
        EngineError: if that cannot be chance.
    """
    several = [[samples[at] for at in group] for group in by_prompt(requests) if len(group) > 1]
    if not several:
        return {}
    equal = sum(all(one.token_ids == group[0].token_ids for one in group) for group in several)
    expected = math.fsum(math.exp((len(group) - 1) * math.fsum(group[0].logps)) for group in several)
    if equal > expected and (not expected or equal * (1 + math.log(expected / equal)) < math.log(LEAST_CHANCE)):
        raise _not_as_asked(
            f"all responses to a prompt are equal for {equal} of {len(several)} prompts, where {expected:.2g} would be "
            "by chance: the server draws them with the same numbers, or not at all"
        )
    return {"equal_responses": equal / len(several)}


def _not_as_asked(what: str) -> EngineError:
    return EngineError(
        f"the servers do not sample as they were asked to: {what}",
        where=PLACE,
        hint="let no defaults of theirs hold (vLLM: --generation-config vllm), and look into their logs; what they "
        "answered is not kept",
    )
