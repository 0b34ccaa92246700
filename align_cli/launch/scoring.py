"""Scoring, shared: a reward model in every process, and what both models say of responses and pairs.

What is scored together is what one process would score together, so that the scores are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.artifacts.records import Text
from align_cli.labelers.base import Scorer
from align_cli.labelers.reward_model import RewardModelLabeler
from align_cli.models.measures import OneMeasure

if TYPE_CHECKING:
    from align_cli.launch.crew import Crew
    from align_cli.models.load import Policy


class SharedScorer(Scorer):
    """A reward model that every process has.

    Args:
        own: the leader's.
        crew: the others.
        artifacts: the names of what the run makes for it.
    """

    def __init__(self, own: RewardModelLabeler, crew: Crew, artifacts: Sequence[str]) -> None:
        self.name, self.by_length, self.scores_once = own.name, own.by_length, own.scores_once
        self.answers, self.costs = own.answers, own.costs
        self.batch_size = own.batch_size * crew.number
        self._own, self._crew, self._artifacts = own, crew, artifacts

    def check(self, prompts: Sequence[Text]) -> None:
        """The leader's own look at its config."""
        self._own.artifact = self.artifact
        self._own.check(prompts)

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> list[float]:
        """One score a completion; see `RewardModelLabeler.score`."""
        from align_cli.launch.tasks import Score

        self._own.artifact = self.artifact
        size = self._own.batch_size
        if len(completions) <= size:
            return self._own.score(prompts, completions, prompt_indices)
        places: Mapping[str, Path | None] = {name: self.artifact(name) for name in self._artifacts}
        scores: list[float] = []
        for start in range(0, len(completions), self.batch_size):
            slices = [slice(place, place + size) for place in range(start, start + self.batch_size, size)]
            task = Score(self.name, places, [(prompts[one], completions[one]) for one in slices])
            self._crew.tell(task)
            own = self._own.score(*task.parts[0])
            scores += [score for part in self._crew.meeting.answers(own) for score in part]
        return scores

    def release(self) -> None:
        """Every process lets the weights go."""
        self._own.release()


class SharedMeasure(OneMeasure):
    """A measure that every process takes of a batch.

    Args:
        crew: the others, who have both models.
        function: as for `OneMeasure`, like all that follows.
        policy: the leader's.
        reference: likewise.
        rest: what else it takes.
    """

    def __init__(self, crew: Crew, function: str, policy: Policy, reference: Policy, *rest: Any) -> None:
        super().__init__(function, policy, reference, *rest)
        self.ways = crew.number
        self._crew, self._name = crew, function

    def __call__(self, items: Sequence[Any], batch_size: int) -> list[float]:
        """A number for each item, at most a batch a process; those of a batch are measured together."""
        from align_cli.launch.tasks import Measure

        batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
        if len(batches) < 2:
            return super().__call__(items, batch_size)
        self._crew.tell(Measure(self._name, batches, self._rest))
        own = self.of(batches[0])
        return [value for part in self._crew.meeting.answers(own) for value in part]
