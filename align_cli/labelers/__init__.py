"""Labelers: prompts and completions in, scores or preferences out. One file each; `build` is the table of them.

A new labeler is one file here, one section in `recipe/schema.py`, one line in `build`, and one test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from align_cli.recipe.sections.labelers import FunctionLabelerSection, LabelerSection


class Scorer(Protocol):
    """A labeler that gives each completion a score of its own, best in batches of `batch_size`."""

    name: str
    batch_size: int

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], prompt_indices: Sequence[int] | None = None
    ) -> list[float]:
        """One finite score a completion, higher is better; the lists are aligned.

        Args:
            prompts: one for each completion.
            completions: what to score.
            prompt_indices: rows of the prompts in their dataset, for error texts.

        Raises:
            LabelerError: if it cannot.
        """
        ...


def build_scorer(name: str, section: LabelerSection) -> Scorer:
    """The scorer that a recipe's labeler section describes.

    Raises:
        LabelerError: if it cannot be made, or gives no scores.
    """
    from align_cli.errors import LabelerError
    from align_cli.labelers.function import FunctionLabeler

    if isinstance(section, FunctionLabelerSection):
        return FunctionLabeler(name, section)
    raise LabelerError(f"a labeler of kind {section.kind!r} gives no scores", where=f"labelers.{name}")
