"""pydantic's errors, and unknown keys, in the words of `STYLE.md`: what was found, what it must be, what to do.

Called by `load`. None of pydantic's own wording reaches a user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic_core import ErrorDetails

from align_cli.errors import nearest
from align_cli.recipe import keys
from align_cli.recipe.other_shapes import written_in_shape
from align_cli.recipe.other_words import hint_for_key, hint_for_value
from align_cli.recipe.sections.labelers import known_kinds
from align_cli.recipe.sections.training_arguments import training_argument_names
from align_cli.recipe.written.overrides import override_key
from align_cli.recipe.written.scalars import rewritten
from align_cli.recipe.written.tree import (
    KeyPath,
    Node,
    PlacedFault,
    dotted,
    find,
    key_place,
    section_place,
    shown,
    value_place,
)


def key_path_of(error: ErrorDetails) -> KeyPath:
    """The key path of a pydantic error, without what pydantic puts there to say which of a union's types it tried."""
    path = error["loc"]
    if len(path) > 2 and path[:2] == ("method", "loss_type"):
        return (*path[:2], *path[3:])
    return path


def placed_fault(root: Node, tree: Any, error: ErrorDetails) -> PlacedFault:
    """A pydantic error as a fault of the recipe."""
    path = key_path_of(error)
    match error["type"]:
        case "missing":
            return _missing(root, path, _kind_at(tree, path))
        case "extra_forbidden":
            return unknown_key(root, path)
        case "union_tag_not_found":
            return _missing(root, (*path, "kind"), None)
        case "union_tag_invalid":
            return _wrong_value(root, tree, (*path, "kind"))
        case _:
            return _wrong_value(root, tree, path)


def unknown_key(root: Node, path: KeyPath) -> PlacedFault:
    """The fault of a key that the schema does not know."""
    place = key_place(root, path)
    full = path
    if place.source.is_override:
        written = override_key(place.source)
        full = written if written[: len(path)] == path else path
    hint = hint_for_key(path) or _suggestion(path, full[len(path) :])
    return PlacedFault(place, f"unknown key {dotted(full)}", hint, full)


def _suggestion(path: KeyPath, rest: KeyPath) -> str:
    """Where the key stands that was meant: elsewhere under the same name, or nearby under a similar one."""
    name = str(path[-1])
    last = str(rest[-1]) if rest else name
    siblings = keys.field_names(path[:-1])
    near = nearest(name, siblings)
    if near and rest and keys.field_at((*path[:-1], near, *rest)):
        return f"did you mean {dotted((*path[:-1], near, *rest))}?"
    is_labelers = path[0] == "labelers"  # whose keys are many, and named as those of sections
    elsewhere = [key for key in keys.paths_ending_in(last) if is_labelers or not key.startswith("labelers.")]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere[:3])}?"
    if near:
        return f"did you mean {dotted((*path[:-1], near))}?"
    if last in training_argument_names():
        return f"did you mean train.{last}?"
    near = nearest(last, keys.leaf_names())
    if near:
        return f"did you mean {' or '.join(keys.paths_ending_in(near)[:3])}?"
    return f"{dotted(path[:-1]) or 'a recipe'} has the keys {', '.join(siblings)}"


def _missing(root: Node, path: KeyPath, kind: str | None) -> PlacedFault:
    hint = f"set it to one of {', '.join(known_kinds())}" if path[-1] == "kind" else f"add it: {_described(path, kind)}"
    return PlacedFault(section_place(root, path[:-1]), f"{dotted(path)} is missing", hint, path)


def _described(path: KeyPath, kind: str | None) -> str:
    """What a key, perhaps of a labeler of some kind, is for."""
    name = ".".join(keys.pattern(path))
    docs = [doc for doc in keys.describe_keys() if doc.path == name]
    return next((doc.description for doc in docs if kind in doc.kinds), docs[0].description)


def _wrong_value(root: Node, tree: Any, path: KeyPath) -> PlacedFault:
    place, value = value_place(root, path), _value_at(tree, path)
    hint = hint_for_value(path, value)
    if hint is not None:
        return PlacedFault(place, f"{dotted(path)} {value} is not served yet", hint, path)
    kind = _kind_at(tree, path)
    words, hint = _wanted(path, value, kind)
    hint = hint or _in_its_shape(path, value, kind)
    entry = find(root, path)
    found = shown(value) if entry is not None else "missing"
    return PlacedFault(place, f"{dotted(path)} is {found}; it must be {words}", hint, path)


def _wanted(path: KeyPath, value: Any, kind: str | None) -> tuple[str, str]:
    """What the value of a key, perhaps of a labeler of some kind, must be, and the remedy."""
    if path[0] == "labelers" and path[-1] == "kind":
        return f"one of {', '.join(known_kinds())}", _did_you_mean(value, known_kinds())
    if path[0] == "labelers" and len(path) == 2:
        return "a section with a kind", "as in hidden: {kind: function, function: package.module:name}"
    info = keys.field_at(path, kind) or keys.value_at(path)
    if info is None:
        return "something else", ""
    if keys.section_models(info.annotation) or path == ("labelers",):
        return "a section", f"leave the key out, or give it {_inside(path)}" if value is None else ""
    type_words, choices = keys.type_words(info), keys.choices(info)
    if isinstance(path[-1], int):
        type_words = type_words.removeprefix("a list, each ")
    if choices and not type_words.startswith("a list"):
        words = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
        return words, _did_you_mean(value, choices)
    return _wanted_of_type(type_words, keys.range_words(info), value, keys.usual_words(info))


def _wanted_of_type(type_words: str, range_words: str, value: Any, usual: str) -> tuple[str, str]:
    if range_words and _is_of_type(type_words, value):
        return range_words, usual
    written = rewritten(value, type_words)
    return f"{type_words} {range_words}".rstrip(), f"write {written}" if written else usual


def _in_its_shape(path: KeyPath, value: Any, kind: str | None) -> str:
    """The remedy where a value has another shape than its key, as a number for a section or a name for a list."""
    info = keys.field_at(path, kind) or keys.value_at(path)
    if info is None or isinstance(path[-1], int):
        return ""
    if written := written_in_shape(value, info):
        return f"write {written}"
    several = (*path[:-1], f"{path[-1]}s")
    if isinstance(value, list) and keys.field_at(several, kind) and not keys.is_list(info):
        return f"{dotted(several)} takes several"
    if keys.is_mapping(info):
        return f"give it {_inside(path)}" if path == ("labelers",) else info.description or ""
    return f"give it {_inside(path)}" if keys.section_models(info.annotation) else ""


def _inside(path: KeyPath) -> str:
    """What a section holds."""
    return "labelers by name" if path == ("labelers",) else f"keys: {', '.join(keys.field_names(path))}"


def _is_of_type(type_words: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return isinstance(value, int) or "whole" not in type_words


def _did_you_mean(value: Any, choices: Sequence[str]) -> str:
    near = nearest(value, choices) if isinstance(value, str) else None
    return f"did you mean {near}?" if near else ""


def _kind_at(tree: Any, path: KeyPath) -> str | None:
    """The kind of the labeler whose key this is; None for other keys, and where there is no such kind."""
    kind = _value_at(tree, (*path[:2], "kind")) if path[0] == "labelers" else None
    return kind if isinstance(kind, str) and kind in keys.labeler_kinds() else None


def _value_at(tree: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree
