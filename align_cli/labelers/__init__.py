"""Labelers: prompts and completions in, scores or preferences out. One file each.

A new labeler is one file here, one section and one line in `recipe/sections/labelers.py`, and one test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Protocol

from align_cli.recipe.sections.labelers import LABELER_KINDS, LabelerSection


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


def build_scorer(name: str, section: LabelerSection, note: Callable[[str], None] = lambda text: None) -> Scorer:
    """The scorer that a recipe's labeler section describes.

    Args:
        name: the labeler's name in the recipe.
        section: its section.
        note: told what a user should know.

    Raises:
        LabelerError: if it cannot be made, or gives no scores.
    """
    from align_cli.errors import LabelerError

    place = LABELER_KINDS[section.kind].scorer
    if place is None:
        raise LabelerError(f"a labeler of kind {section.kind!r} gives no scores", where=f"labelers.{name}")
    scorer: Scorer = resolve_name(place)(name, section, note)
    return scorer
