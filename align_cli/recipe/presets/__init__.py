"""Presets: prior methods as recipe keys, one file each. A preset expands to keys and does nothing else.

What a recipe or an override says wins over its preset, key by key; a labeler of another kind than the preset's keeps
its own keys. A file of the user's own is one as well, and may build on another, whose path is then taken from its own
folder; its name is not kept, since the recipe of a run holds every key of it.
"""

from __future__ import annotations

from os.path import normpath
from pathlib import Path
from typing import Any

from align_cli.errors import RecipeError, nearest
from align_cli.recipe.written.reader import RECIPE_SUFFIXES, read_file, read_text
from align_cli.recipe.written.tree import Node, Place, PlacedFault, Source, plain, shown

FOLDER = Path(__file__).parent
PRESET = ("preset",)


def preset_names() -> list[str]:
    """Every preset, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def is_file(name: str) -> bool:
    """Whether a preset's name is that of a file of the user's own: a path, or a name that ends as one of YAML."""
    return "/" in name or name.endswith(RECIPE_SUFFIXES)


def preset_text(name: str) -> str:
    """A preset's file, to the letter."""
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def preset_keys(name: str) -> dict[str, Any]:
    """What a preset sets, as plain data."""
    root, _ = _read(name)
    keys: dict[str, Any] = plain(root) if root is not None else {}
    return keys


def preset_value(name: str | None, *key: str) -> Any:
    """What a preset's own file sets a key to; None where it says nothing of it, or no preset is named."""
    value: Any = {} if name is None else preset_keys(name)
    for part in key:
        value = value.get(part, {})
    return None if value == {} else value


def _read(name: str) -> tuple[Node | None, list[PlacedFault]]:
    text = preset_text(name)
    return read_text(text, Source(f"preset {name}", tuple(text.splitlines()), is_preset=True))


def apply_preset(root: Node) -> list[PlacedFault]:
    """Add the keys of the preset that a recipe names, where the recipe has none of its own.

    Args:
        root: the recipe's tree, a mapping, overrides applied; changed in place. The name of a file leaves it.

    Returns:
        The faults of an unknown preset and of a file's YAML; nothing where `preset` is no text, which the schema finds.
    """
    faults: list[PlacedFault] = []
    files: list[str] = []
    while (entry := root.value.get("preset")) is not None and isinstance(entry.node.value, str):
        name = entry.node.value
        if not is_file(name):
            return faults + _fill_in_known(root, entry.place, name)
        del root.value["preset"]
        if files:
            name = normpath(Path(files[-1]).parent / name)
        if name in files:
            what = f"the presets {', '.join(map(shown, files))} build on one another"
            return [*faults, PlacedFault(entry.place, what, "leave `preset` out of one of them", PRESET)]
        files.append(name)
        faults += _fill_in_file(root, entry.place, name)
    return faults


def _fill_in_known(root: Node, place: Place, name: str) -> list[PlacedFault]:
    if name not in preset_names():
        return [_unknown(place, name)]
    preset, faults = _read(name)
    if preset is not None:
        _fill(root, preset)
    return faults


def _fill_in_file(root: Node, place: Place, name: str) -> list[PlacedFault]:
    try:
        _, preset, faults = read_file(name)
    except RecipeError as error:
        fault = error.faults[0]
        return [PlacedFault(place, f"preset {shown(name)}: {fault.what}", fault.hint, PRESET)]
    if preset is not None and isinstance(preset.value, dict):
        _fill(root, preset)
    elif not faults:
        what = f"preset {shown(name)} holds no keys with values"
        faults.append(PlacedFault(place, what, "it holds keys as a recipe does, as in `method: {beta: 0.2}`", PRESET))
    return faults


def _fill(target: Node, preset: Node) -> None:
    for key, entry in preset.value.items():
        own = target.value.get(key)
        if own is None:
            target.value[key] = entry
        elif (
            isinstance(own.node.value, dict)
            and isinstance(entry.node.value, dict)
            and _is_of_its_kind(own.node, entry.node)
        ):
            _fill(own.node, entry.node)


def _is_of_its_kind(own: Node, preset: Node) -> bool:
    """Whether a section has the keys of the preset's: no kind of labeler has another one's."""
    kinds = [node.value["kind"].node.value for node in (own, preset) if "kind" in node.value]
    return len(kinds) < 2 or kinds[0] == kinds[1]


def _unknown(place: Place, name: str) -> PlacedFault:
    known = preset_names()
    near = f"offline-{name}" if f"offline-{name}" in known else nearest(name, known)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}; or a file, as in ./mine.yaml"
    return PlacedFault(place, f"preset is {shown(name)}; there is no such preset", hint, PRESET)
