"""From a recipe's file to a Recipe, or to every fault that it has.

The order: YAML to a tree, overrides into the tree, pydantic over its plain values, the keys that pass through, the
rules across keys. Each step looks at whatever the earlier ones left sound. Imports no torch, transformers or trl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from align_cli.errors import RecipeError
from align_cli.recipe.checking.view import RuleFault, View
from align_cli.recipe.faults import key_path_of, placed_fault
from align_cli.recipe.presets import PRESET, apply_preset
from align_cli.recipe.recipe import Recipe
from align_cli.recipe.resolve import with_automatic_values
from align_cli.recipe.rules import broken_rules
from align_cli.recipe.schedule import by_round, scheduled, unfit_values
from align_cli.recipe.sections.data import DataSection
from align_cli.recipe.sections.training_arguments import PASSING_SECTIONS, check_training_argument
from align_cli.recipe.written.overrides import apply_overrides
from align_cli.recipe.written.reader import read_file
from align_cli.recipe.written.tree import (
    KeyPath,
    Node,
    Place,
    PlacedFault,
    Source,
    TooLargeError,
    blamed_place,
    dotted,
    key_place,
    leaves,
    plain,
    shown,
    value_place,
)


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, check_files: bool = True) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file. Relative paths in it start at the current folder, not at the recipe's.
        overrides: `key=value` texts, as in `method.beta=0.2`, applied in turn; values are YAML. An override of an
            anchored value (`liked: &liked a.txt`) changes its aliases (`*liked`) too; one of an alias changes that key
            alone.
        check_files: whether files that the recipe names have to be there.

    Returns:
        The recipe, its automatic values set.

    Raises:
        RecipeError: with every fault of the recipe and of the overrides, in the order of the file's lines, then of the
            overrides.
    """
    source, root, faults = read_file(path)
    recipe = None
    if root is not None and isinstance(root.value, dict):
        faults += apply_overrides(root, overrides)
        faults += apply_preset(root)
        recipe, found = _check(root, check_files)
        taken = {fault.place for fault in faults}
        faults += [fault for fault in found if fault.place not in taken]
    else:
        faults += _no_sections(source, root, faults)
        faults += apply_overrides(Node(Place(source), {}), overrides)
    if root is None or recipe is None or faults:
        raise RecipeError.of([fault.fault() for fault in sorted(faults, key=lambda fault: fault.place.order)])
    recipe.written_at(root)
    return with_automatic_values(recipe)


def load_data_section(overrides: Sequence[str]) -> DataSection:
    """The section `data` of overrides alone, as in `data.criterion=helpful`, where there is no recipe.

    Raises:
        RecipeError: with every fault of the overrides.
    """
    root = Node(Place(Source("the command line")), {})
    faults = apply_overrides(root, overrides)
    tree = plain(root)
    for name in tree.keys() - {"data"}:
        faults.append(
            PlacedFault(key_place(root, (name,)), f"{name} is no key of data", "as in data.criterion=helpful")
        )
    try:
        section = DataSection.model_validate(tree.get("data") or {})
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        faults += [placed_fault(root, tree, {**detail, "loc": ("data", *detail["loc"])}) for detail in details]
    if faults:
        raise RecipeError.of([fault.fault() for fault in sorted(faults, key=lambda fault: fault.place.order)])
    return section


def _no_sections(source: Source, root: Node | None, faults: list[PlacedFault]) -> list[PlacedFault]:
    if faults:
        return []
    if root is None or root.value is None:
        return [
            PlacedFault(Place(source), "the recipe is empty", "it needs output_dir, policy, data, method and train")
        ]
    what = (
        f"the recipe is {'a list' if isinstance(root.value, list) else shown(root.value)}; it must be keys with values"
    )
    return [PlacedFault(root.place, what, "as in `output_dir: runs/first`")]


def _check(root: Node, check_files: bool) -> tuple[Recipe | None, list[PlacedFault]]:
    rounds = list(by_round(root))
    try:
        tree = plain(rounds[0].root)
    except TooLargeError:
        what = "the recipe's aliases expand to more values, or deeper ones, than any recipe needs"
        return None, [PlacedFault(Place(root.place.source), what, "write the values out")]
    recipe, faults = _check_round(rounds[0].root, tree, check_files)
    told = {(fault.place, fault.what) for fault in faults}
    for number, later in rounds[1:]:
        _, found = _check_round(later, plain(later), with_files=False)
        faults += [
            replace(fault, what=f"from round {number} on: {fault.what}")
            for fault in found
            if (fault.place, fault.what) not in told
        ]
        told |= {(fault.place, fault.what) for fault in found}
    if recipe is not None and not faults and (schedule := scheduled(root)):
        recipe = recipe.model_copy(update={"method": recipe.method.following(schedule)})
    return recipe, faults + _check_pass_through(root, tree) + _check_schedule(root, tree, faults)


def _check_round(root: Node, tree: dict[str, Any], with_files: bool) -> tuple[Recipe | None, list[PlacedFault]]:
    """Check what holds in a round: its tree, and that as plain data."""
    recipe, faults, faulty = _check_keys(root, tree)
    for broken in broken_rules(View(Recipe, tree, faulty), with_files=with_files):
        faults.append(_placed(root, broken))
    return recipe, faults


def _check_schedule(root: Node, tree: dict[str, Any], faults: list[PlacedFault]) -> list[PlacedFault]:
    """Which values a schedule may have, that each round may have alone."""
    if faults:
        return []
    replays = tree["train"].get("replay_rounds")
    return [
        PlacedFault(value_place(root, path), what, hint, path)
        for path, what, hint in unfit_values(scheduled(root), bool(replays))
    ]


def _placed(root: Node, broken: RuleFault) -> PlacedFault:
    """A broken rule at the key that it names; where that, or something in it, is a preset's, at what the user typed.

    Of the keys that the rule looked at, that is the one that was typed last: the last override, else the key itself,
    else another line of the recipe's, else the preset's name. The hint tells which of the keys that it is about nobody
    typed.
    """
    place = (key_place if broken.at_key else blamed_place)(root, broken.path)
    looked_at = dict(leaf for path in (broken.path, *broken.asked) for leaf in leaves(root, path))
    presets = {path: found for path, found in looked_at.items() if found.source.is_preset}
    within = [path for path in presets if path[: len(broken.path)] == broken.path]
    if within:
        typed = {path: found for path, found in looked_at.items() if path not in presets}
        lines = [found for path, found in typed.items() if path in broken.asked]
        last = max([*lines, value_place(root, PRESET), *typed.values()], key=lambda found: found.source.rank)
        place = last if last.source.is_override or place.source.is_preset else place
    told = [path for path in presets if path in broken.asked and (path in within or dotted(path) in broken.hint)]
    origin = f"({presets[told[0]].source.name} sets {', '.join(map(dotted, told))})" if told else ""
    return PlacedFault(place, broken.what, " ".join(filter(None, (broken.hint, origin))), broken.path)


def _check_keys(root: Node, tree: dict[str, Any]) -> tuple[Recipe | None, list[PlacedFault], set[KeyPath]]:
    try:
        return Recipe.model_validate(tree), [], set()
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
    faults = [placed_fault(root, tree, detail) for detail in details]
    return None, faults, {key_path_of(detail) for detail in details}


def _check_pass_through(root: Node, tree: dict[str, Any]) -> list[PlacedFault]:
    faults = []
    for section, model in PASSING_SECTIONS.items():
        written = tree.get(section)
        for name, value in written.items() if isinstance(written, dict) else ():
            fault = None if name in model.model_fields else check_training_argument(name, value, section)
            if fault:
                place = (value_place if fault.is_value else key_place)(root, (section, name))
                faults.append(PlacedFault(place, fault.what, fault.hint, (section, name)))
    return faults
