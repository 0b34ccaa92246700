"""The engine `transformers`: the policy's own model, in this process.

It owns which requests make a batch, and what is done where the memory does not hold one. `decoding` runs a model whose
cache is rows that can be moved, `through_generate` every other one; what each draws is `drawing`'s.

Each request draws from a generator of its own, so a response does not depend on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from align_cli.engines.base import Request, Sample, SamplingSettings, Settled
from align_cli.errors import OutOfMemoryError
from align_cli.models.memory import out_of_memory_as_memory_error

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from align_cli.engines.through_generate import Together
    from align_cli.models.load import Policy
    from align_cli.recipe import Recipe


APART = {
    "one length": "note: generate: this model reads the padding before a prompt: prompts of one length go together",
    "none": "note: generate: in a batch this model's sequences depend on each other: each is sampled alone",
}


class TransformersEngine:
    """Batched sampling in process.

    Args:
        batch_size: sequences generated together, at least 1; changes speed and memory, not the samples.
        note: told when a batch was too large for the memory.
    """

    name = "transformers"

    def __init__(self, batch_size: int, note: Callable[[str], None] = lambda text: None) -> None:
        self.batch_size = batch_size
        self.note = note
        self._noted: set[int] = set()
        self._goes_together: WeakKeyDictionary[PreTrainedModel, Together] = WeakKeyDictionary()

    def generate(
        self, policy: Policy, requests: Sequence[Request], settings: SamplingSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Sample]]]:
        """Yield `(index, sample)` batch by batch, longest prompts first: so memory runs out at once or not at all.

        Which requests make a batch does not depend on what is done: a batch of which anything lacks is made whole,
        because a log-probability's last digits depend on the batch.
        """
        for indices in self.batches(policy, requests):
            if all(index in done for index in indices):
                continue
            samples = self.generate_batch(policy, [requests[index] for index in indices], settings)
            yield list(zip(indices, samples, strict=True))

    def settle(
        self, policy: Policy, requests: Sequence[Request], samples: Sequence[Sample], settings: SamplingSettings
    ) -> Settled:
        """They are the policy's own: nothing is to be said of them."""
        return Settled(list(samples), {})

    def check(self) -> None:
        """Nothing can be wrong."""

    def release(self) -> None:
        """Nothing is held."""

    def batches(self, policy: Policy, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Which requests are sampled together, the longest prompts first."""
        lengths = [len(request.prompt_ids) for request in requests]
        first_of: dict[tuple[int, ...], int] = {}
        firsts = [first_of.setdefault(tuple(request.prompt_ids), index) for index, request in enumerate(requests)]
        # Equal prompts stand together: a batch reads each of its prompts once.
        by_length = sorted(range(len(requests)), key=lambda index: (-lengths[index], firsts[index]))
        together = self._together(policy) if len(requests) > 1 and self.batch_size > 1 else "any"
        groups = [by_length]
        if together != "any":
            groups = [list(group) for _, group in groupby(by_length, key=lambda index: lengths[index])]
        batch_size = 1 if together == "none" else self.batch_size
        for group in groups:
            for start in range(0, len(group), batch_size):
                yield group[start : start + batch_size]

    def _together(self, policy: Policy) -> Together:
        from align_cli.engines.through_generate import what_goes_together

        if _keeps_rows_apart(policy):
            return "any"
        if policy.model not in self._goes_together:
            try:
                with out_of_memory_as_memory_error():
                    self._goes_together[policy.model] = what_goes_together(policy)
            except MemoryError:  # not even two prompts of a few tokens: batches will be cut into single ones
                return "any"
            if self._goes_together[policy.model] != "any":
                self.note(APART[self._goes_together[policy.model]])
        return self._goes_together[policy.model]

    def generate_batch(self, policy: Policy, requests: list[Request], settings: SamplingSettings) -> list[Sample]:
        """One batch; in halves where the memory does not hold it.

        Every batch is tried whole first, so that its parts are the same whether or not a process was interrupted.
        """
        try:
            with out_of_memory_as_memory_error():
                return _sample(policy, requests, settings)
        except MemoryError as error:
            half = (len(requests) + 1) // 2
            if half == len(requests):
                raise OutOfMemoryError(
                    f"out of memory while one response was sampled: {error}",
                    where="generate",
                    hint="lower generate.max_new_tokens, or take a smaller model",
                ) from None
        if len(requests) not in self._noted:
            self._noted.add(len(requests))
            self.note(
                f"out of memory with {len(requests)} sequences together; going on with {half} at a time. Lower "
                "generate.batch_size next time"
            )
        parts = (requests[:half], requests[half:])
        return [sample for part in parts for sample in self.generate_batch(policy, part, settings)]


def transformers_engine(
    recipe: Recipe, note: Callable[[str], None], place: Callable[[], Path | None]
) -> TransformersEngine:
    """The engine that a recipe describes; it writes nothing."""
    return TransformersEngine(recipe.generate.batch_size, note)


def stream(policy: Policy, request: Request, settings: SamplingSettings, heard: Callable[[list[int]], None]) -> Sample:
    """One response, of which every token is told when it is sampled.

    Args:
        policy: what is sampled.
        request: what is asked for.
        settings: how.
        heard: called with all tokens so far; what it raises ends the sampling.
    """
    (sample,) = _sample(policy, [request], settings, heard)
    return sample


def _sample(
    policy: Policy,
    requests: Sequence[Request],
    settings: SamplingSettings,
    heard: Callable[[list[int]], None] | None = None,
) -> list[Sample]:
    from align_cli.engines import decoding, through_generate

    sample = decoding.decode if _keeps_rows_apart(policy) else through_generate.generate
    return sample(policy, requests, settings, heard)


def _keeps_rows_apart(policy: Policy) -> bool:
    from align_cli.engines.decoding import keeps_rows_apart

    try:
        with out_of_memory_as_memory_error():
            return keeps_rows_apart(policy.model)
    except MemoryError:  # not even two rows of a few tokens: each sequence is sampled alone
        return False
