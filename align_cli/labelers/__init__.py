"""Labelers: prompts and completions in, scores or preferences out. One file each.

A new labeler is a `Scorer` (`base.py`): one file here, one section and one line in `recipe/sections/labelers.py`, and a
test.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

from align_cli.labelers.base import Scorer
from align_cli.recipe.sections.labelers import LABELER_KINDS, LabelerSection


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


__all__ = ["Scorer", "build_scorer"]
