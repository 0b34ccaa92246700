"""What a server is sent for a response, and what its answer says: token ids, log-probabilities, an end.

Every setting of sampling is written out: what is left unset, servers fill in from the model's own defaults, in silence.
Servers that take no token ids get the prompt's text. What is wrong with an answer that is one is said of the server: it
would be wrong the next time too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.errors import EngineError, counted
from align_cli.models.text import text_before, text_token_ids
from align_cli.recipe.sections.engine_server import PLACE
from align_cli.servers import UnreadableError

if TYPE_CHECKING:
    from align_cli.models.load import Policy

PATH = "/completions"
SEED_BITS_OF_TEXT = 31
"""Of seeds for servers that take text alone: some of them know no larger ones."""
TOKEN_ID = "token_id:"


class Form(Enum):
    """The forms of a request, the one that says most first."""

    IDS = "token ids"
    TRANSFORMERS = "text, and transformers' generation_config"
    TEXT = "text"


class Ask(NamedTuple):
    """Some responses to one prompt, which are asked for together.

    Args:
        positions: of the requests that they answer.
        prompt_ids: token ids of the prompt.
        seed: the first response's; that of the i-th after it is greater by i.
    """

    positions: list[int]
    prompt_ids: list[int]
    seed: int


def by_prompt(requests: Sequence[Request]) -> list[list[int]]:
    """Places of requests that stand next to each other with the same prompt."""
    at = range(len(requests))
    return [list(group) for _, group in groupby(at, key=lambda place: tuple(requests[place].prompt_ids))]


class WrongAnswerError(Exception):
    """An answer that is one, and wrong.

    Args:
        what: the server did, in words that follow "the server at ...".
        hint: what to do about it.
    """

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint

    def of(self, base_url: str) -> EngineError:
        """The error for the user."""
        return EngineError(f"the server at {base_url} {self}", where=PLACE, hint=self.hint)


@dataclass(frozen=True)
class Exchange:
    """How responses of a policy are asked for and read.

    Args:
        policy: whose tokenizer and ends they have.
        settings: how they are sampled.
        model: the name under which the server has it.
        form: of requests.
        takes_n: whether the server gives several responses to a request.
        extra: what requests say besides.
    """

    policy: Policy
    settings: SamplingSettings
    model: str
    form: Form = Form.IDS
    takes_n: bool = True
    extra: Mapping[str, Any] | None = None

    def seed(self, derived: int, number: int) -> int:
        """A seed of the server's for so many responses: those of two prompts are further apart than that."""
        low = number.bit_length()
        bounded = derived if self.form is Form.IDS else derived % 2**SEED_BITS_OF_TEXT
        return bounded >> low << low

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request.

        Raises:
            WrongAnswerError: if the server takes text alone, and no text stands for the prompt.
        """
        settings = self.settings
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": ask.prompt_ids,
            "n": len(ask.positions),
            "max_tokens": settings.max_new_tokens,
            "seed": ask.seed,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
        }
        if self.form is Form.IDS:
            body |= {
                "top_k": settings.top_k or -1,  # as vLLM and SGLang write that all are kept
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "stop_token_ids": self.policy.eos_token_ids,
                "logprobs": 0,
                "return_token_ids": True,
                "return_tokens_as_token_ids": True,
                "skip_special_tokens": False,
                "add_special_tokens": False,
            }
        else:
            body["prompt"] = self._text(ask.prompt_ids)
        if self.form is Form.TRANSFORMERS:
            del body["n"]
            body["generation_config"] = json.dumps(self._generation_config())
        return body | dict(self.extra or {})

    def samples(self, answer: Any, ask: Ask) -> list[Sample]:
        """The responses of an answer, in the order of the ask's positions.

        Raises:
            UnreadableError: if it is no answer.
            WrongAnswerError: if it is one, and wrong.
        """
        choices = _choices(answer)
        if len(choices) != len(ask.positions):
            raise WrongAnswerError(
                f"gave {counted(len(choices), 'response')} where {len(ask.positions)} were asked for",
                "take a server that keeps to n, or set generate.num_generations to 1",
            )
        self._check_prompt(answer, choices, ask)
        samples = [self._sample(choice, ask) for choice in choices]
        return [sample._replace(seed=ask.seed + number) for number, sample in enumerate(samples)]

    def num_given(self, answer: Any) -> int:
        """How many responses an answer holds."""
        return len(_choices(answer))

    def _text(self, prompt_ids: list[int]) -> str:
        text = text_before(self.policy.tokenizer, prompt_ids)
        if text is None:
            raise WrongAnswerError(
                "takes text alone, and no text is read as the token ids of a prompt",
                "take a server that takes token ids, as vLLM or SGLang",
            )
        return text

    def _generation_config(self) -> dict[str, Any]:
        tokenizer = self.policy.tokenizer
        return {
            "do_sample": True,
            **self.settings._asdict(),
            "eos_token_id": self.policy.eos_token_ids,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        }

    def _check_prompt(self, answer: Mapping[str, Any], choices: Sequence[Mapping[str, Any]], ask: Ask) -> None:
        hint = "is it the policy's model and tokenizer that it has, and does it add tokens of its own?"
        for choice in choices:
            echoed = choice.get("prompt_token_ids") or answer.get("prompt_token_ids")
            if echoed is not None and echoed != ask.prompt_ids:
                what = f"read another prompt than the one that it was sent: {_difference(ask.prompt_ids, echoed)}"
                raise WrongAnswerError(what, hint)
        counts = answer.get("usage")
        number = counts.get("prompt_tokens") if isinstance(counts, Mapping) else None
        if isinstance(number, int) and number not in (len(ask.prompt_ids), len(ask.prompt_ids) * len(choices)):
            what = f"read a prompt of {len(ask.prompt_ids)} tokens as one of {number}"
            raise WrongAnswerError(what, hint)

    def _sample(self, choice: Mapping[str, Any], ask: Ask) -> Sample:
        reason = choice.get("finish_reason")
        if reason not in ("stop", "length"):
            raise WrongAnswerError(f"ended a response for the reason {reason!r}", "look into the server's log")
        ids, logps = choice.get("token_ids"), choice.get("logprobs")
        if not isinstance(logps, Mapping):
            logps = {}
        if ids is None:
            ids = _ids_written_as_tokens(logps.get("tokens"))
        if ids is None:
            return self._from_text(choice, ask, reason)
        self._check_ids(ids, reason)
        return Sample(ids, _logps(logps.get("token_logprobs"), ids, logps.get("tokens")), reason)

    def _from_text(self, choice: Mapping[str, Any], ask: Ask, reason: str) -> Sample:
        text, ends = choice.get("text"), self.policy.eos_token_ids
        if not isinstance(text, str):
            raise UnreadableError("a response has neither token ids nor text")
        ids = text_token_ids(self.policy.tokenizer, ask.prompt_ids, text)
        end = next((place for place, token_id in enumerate(ids) if token_id in ends), None)
        ids = ids[:end] if end is not None else ids
        if reason == "stop":
            ids = [*ids[: self.settings.max_new_tokens - 1], self._end_of_text()]
            return Sample(ids, [], "stop", from_text=True)
        if not ids:
            raise WrongAnswerError("gave an empty response that its end did not end", "look into the server's log")
        return Sample(ids[: self.settings.max_new_tokens], [], "length", from_text=True)

    def _end_of_text(self) -> int:
        end: int = self.policy.tokenizer.eos_token_id
        return end

    def _check_ids(self, ids: Any, reason: str) -> None:
        """Whether these are ids of the policy's, and end as the server says that they do."""
        ends, most, size = self.policy.eos_token_ids, self.settings.max_new_tokens, _vocabulary(self.policy)
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise UnreadableError("its token ids are no list of numbers")
        if unknown := [one for one in ids if not 0 <= one < size]:
            what = f"gave the token id {unknown[0]}, and the policy has {size}"
            raise WrongAnswerError(what, "is it the policy's model and tokenizer that it has?")
        if not 0 < len(ids) <= most:
            what = f"gave a response of {counted(len(ids), 'token')} where at most {most} were asked for"
            raise WrongAnswerError(what, "look into the server's log")
        at_ends = [place for place, one in enumerate(ids) if one in ends]
        if at_ends and at_ends[0] < len(ids) - 1:
            what = f"went on behind token {at_ends[0] + 1} of a response, {ids[at_ends[0]]}, which ends it"
            raise WrongAnswerError(what, "let it stop at stop_token_ids, and ignore no end (ignore_eos, min_tokens)")
        if reason == "stop" and not at_ends:
            what = f"says that a response ended by itself, and its last token, {ids[-1]}, ends none"
            raise WrongAnswerError(
                what, f"the policy's responses end in {_listed(ends)}: let it keep that id, and set no stop words"
            )
        if reason == "length" and (at_ends or len(ids) < most):
            what = f"says that a response was cut at {most} tokens, and it has {len(ids)} and "
            what += "ends by itself" if at_ends else "does not end"
            raise WrongAnswerError(what, "is its context shorter than prompt and response (--max-model-len)?")


def _choices(answer: Any) -> list[Mapping[str, Any]]:
    """The responses of an answer, in their order."""
    found = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(found, list) or not found or not all(isinstance(one, Mapping) for one in found):
        raise UnreadableError("it has no choices")
    numbers = [one.get("index", place) for place, one in enumerate(found)]
    if sorted(map(str, numbers)) != sorted(map(str, range(len(found)))):
        raise UnreadableError(f"its choices have the numbers {_listed(numbers)}")
    return [found[numbers.index(place)] for place in range(len(found))]


def _ids_written_as_tokens(tokens: Any) -> list[int] | None:
    """The ids of tokens that are written as `token_id:5`; None where they are not."""
    if not isinstance(tokens, list) or not tokens or not all(str(one).startswith(TOKEN_ID) for one in tokens):
        return None
    written = [str(one).removeprefix(TOKEN_ID) for one in tokens]
    return [int(one) for one in written] if all(one.isdecimal() for one in written) else None


def _logps(values: Any, ids: list[int], tokens: Any) -> list[float]:
    """The log-probabilities of ids; empty where the server gave none.

    Raises:
        WrongAnswerError: if there is not one of each id, or if one is none.
    """
    if values is None or values == []:
        return []
    hint = "look into its settings of log-probabilities; without any, the trainer makes them"
    if not isinstance(values, list) or len(values) != len(ids):
        number = len(values) if isinstance(values, list) else 0
        what = f"gave {counted(number, 'log-probability', 'log-probabilities')} of {counted(len(ids), 'token id')}"
        raise WrongAnswerError(what, hint)
    written = _ids_written_as_tokens(tokens)
    if written is not None and written != ids:
        raise WrongAnswerError(
            f"gave log-probabilities of other tokens than its own: {_difference(ids, written)}", hint
        )
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value > 1e-3:
            raise WrongAnswerError(f"gave {value!r} as a log-probability", hint)
    return [min(float(value), 0.0) for value in values]


def _vocabulary(policy: Policy) -> int:
    size: int = policy.model.get_input_embeddings().weight.shape[0]
    return size


def _difference(ours: list[int], theirs: Any) -> str:
    """Where two lists of ids part."""
    if not isinstance(theirs, list):
        return f"{theirs!r}"[:80]
    place = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        return f"{len(theirs)} ids instead of {len(ours)}"
    return f"id {place + 1} of {len(ours)} is {theirs[place]} instead of {ours[place]}"


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
