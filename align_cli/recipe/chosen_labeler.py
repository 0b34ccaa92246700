"""`align label --labeler NAME` as overrides of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align_cli.errors import RecipeError, nearest
from align_cli.recipe.presets import apply_preset
from align_cli.recipe.sections.labelers import PERSON
from align_cli.recipe.written.overrides import apply_overrides
from align_cli.recipe.written.reader import read_file
from align_cli.recipe.written.tree import TooLargeError, escaped, plain, shown


def chosen_labeler(path: Path, overrides: Sequence[str], name: str) -> list[str]:
    """What has a labeler take the place of the one that labels the policy's responses.

    `person` needs no section: it is the recipe's only labeler of kind `person` where there is one, else a new one. A
    recipe that cannot be read is not judged here: who loads it with these overrides is told.

    Args:
        path: the recipe's file.
        overrides: those that it gets besides.
        name: the labeler's.

    Returns:
        More overrides, to come after the others.

    Raises:
        RecipeError: if several labelers may be meant or none is, or the recipe gives source dpr no share.
    """
    tree = _tree(path, overrides)
    sources = _section(tree, "method").get("sources")
    if isinstance(sources, dict) and "dpr" not in sources:
        what = f"--labeler {name} labels pairs of source dpr, to which the recipe gives no share"
        raise RecipeError(what, where="method.sources", hint="give it one: method.sources.dpr.mixing")
    written = _section(tree, "labelers")
    labelers = {one: section for one, section in written.items() if isinstance(section, dict)}
    if tree and name not in (*written, PERSON):
        raise _no_labeler(name, labelers)
    in_its_place = "method.sources.dpr.labeler={}"
    if name != PERSON or PERSON in labelers:
        return [in_its_place.format(name)]
    people = [one for one, section in labelers.items() if section.get("kind") == PERSON]
    if len(people) > 1:
        hint = f"name one of them: {' or '.join(f'--labeler {one}' for one in people)}"
        raise RecipeError(f"the recipe has {len(people)} labelers of kind person", where="labelers", hint=hint)
    if people:
        return [in_its_place.format(people[0])]
    return [f"labelers.{PERSON}={{kind: {PERSON}}}", in_its_place.format(PERSON)]


def _no_labeler(name: str, labelers: Mapping[str, Mapping[str, Any]]) -> RecipeError:
    """The fault of a name that no labeler has; its remedy is those of the kind that it is, or the nearest name."""
    of_kind = [one for one, section in labelers.items() if section.get("kind") == name]
    near = nearest(name, (*labelers, PERSON))
    meant = of_kind or ([near] if near else [])
    if meant:
        hint = f"did you mean {' or '.join(f'--labeler {escaped(one)}' for one in meant)}?"
    else:
        hint = f"name one of {', '.join(map(escaped, (*labelers, PERSON)))}; {PERSON} needs no section"
    return RecipeError(f"--labeler is {shown(name)}; labelers defines no such labeler", hint=hint)


def _tree(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe as plain values, with overrides and preset; empty where it cannot be read."""
    _, root, _ = read_file(path)
    if root is None or not isinstance(root.value, dict):
        return {}
    apply_overrides(root, overrides)
    apply_preset(root)
    try:
        return plain(root)
    except TooLargeError:
        return {}


def _section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    section = tree.get(name)
    return section if isinstance(section, dict) else {}
