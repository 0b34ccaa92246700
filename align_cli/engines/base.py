"""What every engine has in common: requests in, samples out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from align_cli.recipe.sections.generate import GenerateSection


class SamplingSettings(NamedTuple):
    """How to sample.

    Args:
        temperature: above 0; 1 samples the policy itself.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: nucleus mass in (0, 1]; 1 keeps all.
        max_new_tokens: longest response in tokens.
    """

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int

    def of_policy(self) -> SamplingSettings:
        """Those that sample the policy itself, at the same length."""
        return self._replace(temperature=1.0, top_k=0, top_p=1.0)


def sampling_settings(section: GenerateSection) -> SamplingSettings:
    """The recipe's settings as engines take them."""
    return SamplingSettings(section.temperature, section.top_k, section.top_p, section.max_new_tokens)


class Request(NamedTuple):
    """One response wanted: token ids of the prompt, and the seed that alone decides its randomness."""

    prompt_ids: list[int]
    seed: int


class Sample(NamedTuple):
    """One response.

    Args:
        token_ids: what was sampled, the end-of-sequence token included where there was one.
        logps: log-probability of each token under the sampling distribution, in nats; empty where whoever sampled it
            does not say, until it is settled.
        finish_reason: `stop` or `length`.
        seed: what it was drawn with, where that is not the request's.
        from_text: whether only its text came: its ids are what the policy's tokenizer makes of that.
    """

    token_ids: list[int]
    logps: list[float]
    finish_reason: Literal["stop", "length"]
    seed: int | None = None
    from_text: bool = False


class Settled(NamedTuple):
    """Samples that were looked at together.

    Args:
        samples: each with its log-probabilities.
        figures: what is to be told of how they were sampled; empty where there is nothing.
    """

    samples: list[Sample]
    figures: dict[str, Any]


class Engine(Protocol):
    """Generates text."""

    name: str

    def generate(
        self, policy: Any, requests: Sequence[Request], settings: SamplingSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Sample]]]:
        """Yield `(index of the request, its sample)`, in any order, as many at a time as are done together.

        Args:
            policy: what is sampled.
            requests: all responses wanted.
            settings: how.
            done: indices of those that are there already. What is generated together may depend on all requests, so
                that going on gives the bytes of not having been interrupted; what is there may be yielded again.
        """
        ...

    def settle(
        self, policy: Any, requests: Sequence[Request], samples: Sequence[Sample], settings: SamplingSettings
    ) -> Settled:
        """Look at all samples once they are there.

        Raises:
            EngineError: if they are not what was asked for.
        """
        ...

    def check(self) -> None:
        """Look at what can be wrong before anything is loaded.

        Raises:
            EngineError: if it cannot generate.
        """
        ...

    def release(self) -> None:
        """A stage is over: let go of what is not to be held until the next."""
        ...
