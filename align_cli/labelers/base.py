"""What a labeler is: it scores completions (`Scorer`), or says which of two is better (`Comparer`).

What a labeler has to say of its own work, such as calls and tokens, it counts (`take_counts`). The stage that asks
keeps answers and counts together, batch by batch, so that the figures of a stage that was killed are those of one that
was not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from align_cli.artifacts.answers import Answers
from align_cli.artifacts.records import Text
from align_cli.labelers.checked import checked_scores, checked_verdicts


class Labeler(ABC):
    """Any labeler.

    Attributes:
        name: the labeler's name in the recipe.
        batch_size: completions, or pairs, that are best asked for together.
        by_length: whether those of a length are best asked for together.
        scores_once: whether completions that read the same are scored once for all: what is computed in batches differs
            in its last digits from batch to batch, and what is the same would be no tie.
        answers: where a labeler whose answers cost money or time keeps them, so that none is asked for twice.
        artifact: finds an artifact of the run's round 0 by its name; None where the run has none yet.
        members: the labelers that it puts together, by name; none for most.
        gives_verdicts: whether it says who of two is better, rather than scoring each.
        costs: whether asking it may cost money, so that nobody asks it on trial.
        is_of_others: whether its kind is not align's own, so that what it raises is its own fault.
    """

    name: str
    batch_size: int
    by_length: bool = False
    scores_once: bool = False
    answers: Answers
    artifact: Callable[[str], Path | None] = staticmethod(lambda name: None)
    members: Mapping[str, Labeler] = MappingProxyType({})
    gives_verdicts: bool = False
    costs: bool = False
    is_of_others: bool = False

    @abstractmethod
    def check(self, prompts: Sequence[Text]) -> None:
        """Find out whether it will work, before hours of sampling; loads no weights, asks for nothing that costs.

        Args:
            prompts: a few that it will see; they do for completions.

        Raises:
            LabelerError: if it will not.
        """

    def take_counts(self) -> dict[str, float]:
        """What it has counted of its work since the last call of this, such as calls; they are added up."""
        return {}

    def check_counts(self, counts: Mapping[str, float]) -> None:  # noqa: B027  most count nothing
        """Look at the counts of a stage so far.

        Raises:
            LabelerError: if they say that its answers are worth nothing.
        """

    def figures(self, counts: Mapping[str, float]) -> dict[str, float]:
        """What the counts of a whole stage come to, for the round's figures."""
        return dict(counts)

    def release(self) -> None:  # noqa: B027  most hold nothing
        """Let go of what takes memory; it may be asked again."""


class Scorer(Labeler):
    """A labeler that gives each completion a score of its own."""

    @abstractmethod
    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> Sequence[float | None]:
        """One finite score a completion, higher is better; None for one that it has no score for.

        Args:
            prompts: one for each completion: text, or a conversation's messages.
            completions: what to score, likewise; the lists are aligned.
            prompt_indices: rows of the prompts in their dataset, for error texts.

        Raises:
            LabelerError: if it cannot.
        """

    def check(self, prompts: Sequence[Text]) -> None:
        """Scores them, unless that costs."""
        if not self.costs:
            checked_scores(self.name, self.score(prompts, prompts), len(prompts))


class Comparer(Labeler):
    """A labeler that says which of two completions is better."""

    gives_verdicts = True

    def check(self, prompts: Sequence[Text]) -> None:
        """Compares each with the next, unless that costs."""
        if not self.costs:
            others = [*prompts[1:], *prompts[:1]]
            checked_verdicts(self.name, self.compare(prompts, prompts, others), len(prompts))

    @abstractmethod
    def compare(
        self,
        prompts: Sequence[Text],
        firsts: Sequence[Text],
        seconds: Sequence[Text],
        prompt_indices: Sequence[int] | None = None,
    ) -> Sequence[float | None]:
        """The probability in [0, 1] that the first of each pair is better; one half for a tie, None for no verdict.

        Args:
            prompts: one for each pair: text, or a conversation's messages.
            firsts: one completion of each pair, likewise; the lists are aligned.
            seconds: the other.
            prompt_indices: rows of the prompts in their dataset, for error texts.

        Raises:
            LabelerError: if it cannot.
        """
