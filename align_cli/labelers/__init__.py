"""Labelers: prompts and completions in, scores or verdicts out. One file each.

A new labeler is a `Scorer` or a `Comparer` (`base.py`): one file here, one section in `recipe/sections/labelers` with
its line in the table there, and a test.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

from align_cli.artifacts.answers import Answers
from align_cli.labelers.base import Comparer, Labeler, Scorer
from align_cli.labelers.kinds_of_others import OWN, made_elsewhere
from align_cli.recipe.sections.labelers import LABELER_KINDS, LabelerSection


def build_labeler(
    name: str,
    section: LabelerSection,
    note: Callable[[str], None] = lambda text: None,
    answers: Answers | None = None,
) -> Labeler:
    """The labeler that a section of a recipe describes.

    Args:
        name: the labeler's name in the recipe.
        section: its section.
        note: told what a user should know.
        answers: where it keeps answers that cost money or time; None keeps them in memory alone.

    Raises:
        LabelerError: if it cannot be made, or labels nothing that the policy writes.
    """
    from align_cli.errors import LabelerError

    place = LABELER_KINDS[section.kind].labeler
    if place is None:
        what = f"a labeler of kind {section.kind!r} labels nothing that the policy writes"
        raise LabelerError(what, where=f"labelers.{name}")
    if place.startswith(OWN):
        labeler: Labeler = resolve_name(place)(name, section, note)
    else:
        labeler = made_elsewhere(name, place, section, note)
    labeler.answers, labeler.costs = answers or Answers(), section.COSTS
    return labeler


__all__ = ["Comparer", "Labeler", "Scorer", "build_labeler"]
