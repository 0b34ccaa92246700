"""What a labeler that scores is: a name, a batch size, and a score for each completion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from align_cli.artifacts.records import Text


class Scorer(ABC):
    """A labeler that gives each completion a score of its own.

    Attributes:
        name: the labeler's name in the recipe.
        batch_size: completions that are best scored together.
        by_length: whether those of a length are best scored together.
    """

    name: str
    batch_size: int
    by_length: bool = False

    @abstractmethod
    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], prompt_indices: Sequence[int] | None = None
    ) -> list[float]:
        """One finite score a completion, higher is better; the lists are aligned.

        Args:
            prompts: one for each completion: text, or a conversation's messages.
            completions: what to score, likewise.
            prompt_indices: rows of the prompts in their dataset, for error texts.

        Raises:
            LabelerError: if it cannot.
        """

    def check(self, prompts: Sequence[Text]) -> None:
        """Find out whether it will work, before hours of sampling; loads no weights of any model.

        Args:
            prompts: a few that it will see; they do for completions.

        Raises:
            LabelerError: if it will not.
        """
        self.score(prompts, prompts)

    def release(self) -> None:  # noqa: B027  most hold nothing
        """Let go of what takes memory; it may be asked again."""
