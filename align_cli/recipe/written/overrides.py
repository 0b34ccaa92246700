"""`key=value` after a recipe: changes to its tree before anything is checked.

Values are YAML, so that lists, sections and `null` work. Whether a key exists is not asked here: an override makes the
sections that it needs, and the check of the whole recipe finds what is unknown, with the override as the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from align_cli.recipe.written.reader import read_text
from align_cli.recipe.written.scalars import has_control_character
from align_cli.recipe.written.tree import Entry, Node, Place, PlacedFault, Source, dotted, shown

_USAGE = "write key=value, as in method.beta=0.2"


def apply_overrides(root: Node, overrides: Sequence[str]) -> list[PlacedFault]:
    """Change the tree by each override in turn; of two for one key the last holds.

    A section or list is replaced, not merged. An override of an anchored value (`liked: &liked a.txt`) changes every
    alias of it (`prompts: *liked`) too: the recipe says that they are one value. An override of an alias changes that
    one key alone.

    Returns:
        The faults of overrides that could not be read or applied.
    """
    faults: list[PlacedFault] = []
    for number, text in enumerate(overrides, start=1):
        faults.extend(_apply(root, text, Place(Source(text, rank=number))))
    return faults


def override_key(source: Source) -> tuple[str, ...]:
    """The key path that an override's source sets."""
    return tuple(source.name.partition("=")[0].strip().split("."))


def _apply(root: Node, text: str, place: Place) -> list[PlacedFault]:
    if "=" not in text:
        return [PlacedFault(place, "an override needs a key and a value", _USAGE)]
    path = override_key(place.source)
    if not all(path):
        return [PlacedFault(place, "this override names no key", _USAGE)]
    if has_control_character(text):
        return [PlacedFault(place, "this override holds a control character", "remove it")]
    value, faults = read_text(text.partition("=")[2], place.source)
    if faults:
        return faults
    return _set(root, path, value or Node(place, None))


def _set(root: Node, path: tuple[str, ...], value: Node) -> list[PlacedFault]:
    node = root
    for depth, key in enumerate(path):
        if node.value is None:
            node.place, node.value = value.place, {}
        if not isinstance(node.value, dict):
            kind = "a list; give it whole" if isinstance(node.value, list) else f"{shown(node.value)}, not a section"
            return [
                PlacedFault(value.place, f"{dotted(path[:depth]) or 'the recipe'} is {kind}", _list_hint(path[:depth]))
            ]
        if key not in node.value:
            node.value[key] = Entry(value.place, value.place, Node(value.place, None))
        node = _own_node(node.value[key])
    node.place, node.value = value.place, value.value
    return []


def _own_node(entry: Entry) -> Node:
    """The entry's node, which an alias gets a copy of before it is changed."""
    if entry.is_alias:
        value = entry.node.value
        if isinstance(value, dict):
            value = {key: replace(child, is_alias=True) for key, child in value.items()}
        entry.node, entry.is_alias = Node(entry.node.place, value), False
    return entry.node


def _list_hint(path: tuple[str, ...]) -> str:
    return f"as in {dotted(path)}=[...]" if path else ""
