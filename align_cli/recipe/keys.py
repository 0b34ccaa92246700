"""The recipe's keys as data: where each stands, its type, range, default and description.

Everything here is read off the sections' models. Called by `faults` to word faults and to suggest keys, and by whoever
makes documentation.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from align_cli.recipe.checking.section import OneOf, Section, Usual, section_models
from align_cli.recipe.recipe import Recipe
from align_cli.recipe.sections.labelers import LABELER_KINDS, LabelerKind
from align_cli.recipe.sections.losses import LOSS_TYPE_ALIASES

NAME = "<name>"
_TYPE_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOUND_WORDS = {"gt": "above {}", "ge": "at least {}", "lt": "below {}", "le": "at most {}"}


@dataclass(frozen=True)
class KeyDoc:
    """One key of a recipe, in words.

    Args:
        path: the key, as `method.beta`; `labelers.<name>.function` stands for every labeler.
        type: what its value is, as `a number` or `sigmoid, ipo, hinge`.
        range: the values allowed, as `above 0`; empty where all of the type are.
        default: the default as YAML writes it; `required` where there is none.
        description: what it is for.
        kinds: of a labeler's key, the kinds of labelers that have it; empty for keys of all, and of other sections.
    """

    path: str
    type: str
    range: str
    default: str
    description: str
    kinds: tuple[str, ...] = ()


def describe_keys() -> list[KeyDoc]:
    """Every key of a recipe, in the order of the schema; sections stand before their keys.

    A key that labelers of several kinds have stands there once for all of whom the same holds.
    """
    return [doc for path, info in _all_fields().items() for doc in _describe_all(path, info)]


def field_at(path: tuple[str | int, ...], kind: str | None = None) -> FieldInfo | None:
    """The field of a key path, or None for a path that the schema does not know.

    Args:
        path: the key's.
        kind: of a labeler's key, the labeler's kind: several kinds have keys of one name. None is any that has it.
    """
    fields = _all_fields() if kind is None else _fields_with((LABELER_KINDS[kind],))
    return fields.get(pattern(path))


def value_at(path: tuple[str | int, ...]) -> FieldInfo | None:
    """What the values are of a mapping whose keys are anybody's choice; None where the path leads to no such value."""
    mapping = field_at(path[:-1])
    arguments = get_args(mapping.annotation) if mapping and get_origin(mapping.annotation) is dict else ()
    return FieldInfo.from_annotation(arguments[1]) if arguments else None


def field_names(path: tuple[str | int, ...]) -> list[str]:
    """The keys of the section at a path."""
    here = pattern(path)
    return list(dict.fromkeys(key[-1] for key in _all_fields() if key[:-1] == here and key[-1] != NAME))


def paths_ending_in(name: str) -> list[str]:
    """Every key path whose last part is `name`."""
    return [".".join(path) for path in _all_fields() if path[-1] == name]


def leaf_names() -> set[str]:
    """The last part of every key path."""
    return {path[-1] for path in _all_fields()} - {NAME}


def choices(info: FieldInfo) -> list[str]:
    """The texts that a field may be, aliases included; empty where it is not a choice."""
    names = [name for mark in info.metadata if isinstance(mark, OneOf) for name in mark.names]
    found = list(dict.fromkeys(str(choice) for choice in (*names, *_literals(info.annotation))))
    return [*found, *LOSS_TYPE_ALIASES] if set(LOSS_TYPE_ALIASES.values()) <= set(found) else found


def labeler_kinds() -> list[str]:
    """The kinds of labelers that a recipe may use."""
    return list(LABELER_KINDS)


def is_list(info: FieldInfo) -> bool:
    """Whether a field may be a list."""
    return list in _origins(info.annotation)


def is_mapping(info: FieldInfo) -> bool:
    """Whether a field is a mapping whose keys are anybody's choice."""
    return dict in _origins(info.annotation)


def type_words(info: FieldInfo) -> str:
    """What a field's value is, in words."""
    for mark in info.metadata:
        if isinstance(mark, OneOf):
            return _choice_words(list(mark.names))
    return _type_words(info.annotation)


def usual_words(info: FieldInfo) -> str:
    """Which values of a field are usual; empty where nothing is said of it."""
    return next((mark.words for mark in info.metadata if isinstance(mark, Usual)), "")


def range_words(info: FieldInfo) -> str:
    """Which values a field allows, in words; empty where it allows all of its type."""
    bounds = [
        words.format(getattr(constraint, name))
        for constraint in info.metadata
        for name, words in _BOUND_WORDS.items()
        if getattr(constraint, name, None) is not None
    ]
    return " and ".join(bounds)


def pattern(path: tuple[str | int, ...]) -> tuple[str, ...]:
    """The key path that stands for this one in the schema: any labeler's name is `<name>`."""
    parts = tuple(str(part) for part in path if not isinstance(part, int))
    return (parts[0], NAME, *parts[2:]) if len(parts) > 1 and parts[0] == "labelers" else parts


def _all_fields() -> Mapping[tuple[str, ...], FieldInfo]:
    return _fields_with(tuple(LABELER_KINDS.values()))


@functools.lru_cache(maxsize=32)
def _fields_with(kinds: tuple[LabelerKind, ...]) -> Mapping[tuple[str, ...], FieldInfo]:
    """Every field by its key path, where labelers may be of these kinds."""
    fields: dict[tuple[str, ...], FieldInfo] = {}
    for path, info in _walk(Recipe, (), kinds):
        fields.setdefault(path, info)
    return fields


def _walk(
    model: type[BaseModel], path: tuple[str, ...], kinds: Sequence[LabelerKind]
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, info in model.model_fields.items():
        here = (*path, name)
        yield here, info
        is_labelers = here == ("labelers",)
        below = (*here, NAME) if is_labelers else here
        for section in [kind.section for kind in kinds] if is_labelers else section_models(info.annotation):
            yield from _walk(section, below, kinds)


def _describe_all(path: tuple[str, ...], info: FieldInfo) -> list[KeyDoc]:
    """A key; one of labelers as often as it differs between their kinds."""
    if path[:2] != ("labelers", NAME):
        return [_describe(path, info)]
    of_kinds: dict[KeyDoc, list[str]] = {}
    for name, kind in LABELER_KINDS.items():
        if found := _fields_with((kind,)).get(path):
            of_kinds.setdefault(_describe(path, found), []).append(name)
    return [
        doc if len(names) == len(LABELER_KINDS) else replace(doc, kinds=tuple(names)) for doc, names in of_kinds.items()
    ]


def _describe(path: tuple[str, ...], info: FieldInfo) -> KeyDoc:
    models = section_models(info.annotation)
    description = info.description or (_first_line(models[0]) if models else "")
    words = f"one of {', '.join(labeler_kinds())}" if path[-1] == "kind" else type_words(info)
    return KeyDoc(".".join(path), words, range_words(info), _default_words(path, info), description)


def _first_line(model: type[BaseModel]) -> str:
    line = (model.__doc__ or "").strip().splitlines()[0]
    return line.partition(": ")[2].rstrip(".") or line.rstrip(".")


def _default_words(path: tuple[str, ...], info: FieldInfo) -> str:
    if path[-1] == "kind" or info.is_required():
        return "required"
    default = info.default
    if isinstance(default, Section):
        return "its keys' defaults"
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return f"[{', '.join(map(str, default))}]"
    return str(default)


def _origins(annotation: Any) -> list[Any]:
    return [get_origin(kind) for kind in (annotation, *get_args(annotation))]


def _literals(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in _literals(part)]


def _type_words(annotation: Any) -> str:
    if annotation in _TYPE_WORDS:
        return _TYPE_WORDS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_words(arguments[0])
    if origin is Literal:
        return _choice_words(list(map(str, arguments)))
    if origin is list:
        return f"a list, each {_type_words(arguments[0])}"
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(_type_words(part) for part in arguments if part is not type(None)))
        if len(words) == 2 and words[1] == f"a list, each {words[0]}":
            return f"{words[0]}, or a list of them"
        return " or ".join(words)
    return "a section"


def _choice_words(choices: list[str]) -> str:
    return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
