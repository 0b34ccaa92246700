"""The in-process engine, shared: every process samples a batch at a time, of those that one process would sample.

Which requests make a batch is the leader's word, and each draws by its own seed: so the samples are those of a run of
one process, to the last bit of their log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.engines.in_process import TransformersEngine

if TYPE_CHECKING:
    from align_cli.launch.crew import Crew


class SharedEngine(TransformersEngine):
    """Batched sampling in all processes.

    Args:
        own: the leader's engine, as which it samples what is not shared.
        crew: the others.
        share: lets the others have a model, and says by which name; None for one that they cannot have.
    """

    def __init__(self, own: TransformersEngine, crew: Crew, share: Callable[[Any], str | None]) -> None:
        super().__init__(own.batch_size, own.note)
        self._crew, self._share = crew, share

    def generate(
        self, policy: Any, requests: Sequence[Request], settings: SamplingSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Sample]]]:
        """Yield `(index, sample)`, a batch of every process at a time; see `TransformersEngine.generate`."""
        from align_cli.launch.tasks import Generate

        batches = [batch for batch in self.batches(policy, requests) if any(index not in done for index in batch)]
        role = self._share(policy) if len(batches) > 1 else None
        if role is None:
            yield from super().generate(policy, requests, settings, done)
            return
        for start in range(0, len(batches), self._crew.number):
            wave = batches[start : start + self._crew.number]
            task = Generate(role, [[requests[index] for index in batch] for batch in wave], settings)
            self._crew.tell(task)
            own = self.generate_batch(policy, task.batches[0], settings)
            answers = self._crew.meeting.answers(own)
            yield [
                placed
                for batch, samples in zip(wave, answers, strict=False)  # beyond the last batch nobody has any
                for placed in zip(batch, samples, strict=True)
            ]
