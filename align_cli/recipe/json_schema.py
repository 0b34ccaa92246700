"""A JSON Schema (draft 2020-12) of recipes, for editors: keys, types, ranges, choices, defaults and what each is for.

Made of the sections' models. What spans several keys, the disk and the libraries is `align check`'s: the schema refuses
no sound recipe, and finds the faults that can be seen at a single key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from align_cli import __version__
from align_cli.recipe.presets import preset_keys, preset_names
from align_cli.recipe.recipe import Recipe
from align_cli.recipe.sections.labelers import LABELER_KINDS, known_kinds
from align_cli.recipe.sections.losses import LOSS_TYPE_ALIASES
from align_cli.recipe.sections.training_arguments import (
    PASSING_SECTIONS,
    argument_json_types,
    passing_names,
)
from align_cli.recipe.written.tree import KeyPath

DRAFT = "https://json-schema.org/draft/2020-12/schema"
FILE_NAME = "align.schema.json"
"""What the file is usually called."""
NEVER_FILLED = ("policy",)
"""Presets have keys of these sections, and never all that a recipe needs there."""

Schema = dict[str, Any]


def recipe_schema() -> Schema:
    """The schema of a recipe, as the installed transformers and the installed kinds of labelers have it."""
    sections = [kind.section for kind in LABELER_KINDS.values()]
    models: list[Any] = [(model, "validation") for model in (Recipe, *sections)]
    definitions: Schema = models_json_schema(models)[1]["$defs"]
    _add_aliases(definitions)
    for name, section in PASSING_SECTIONS.items():
        _add_training_arguments(definitions[section.__name__], name)
    root = definitions.pop(Recipe.__name__)
    root["properties"]["preset"] |= {"anyOf": [{"enum": preset_names()}, {"type": "null"}]}
    root["properties"]["labelers"]["additionalProperties"] = _labeler()
    root["allOf"] = list(_needed_without_presets(root, definitions))
    title = f"A recipe of align {__version__}"
    whole: Schema = _without_titles({"$schema": DRAFT, **root, "$defs": definitions})
    return {"$schema": DRAFT, "title": title, **whole}


def editor_line(schema: str) -> str:
    """The comment by which editors with yaml-language-server find a recipe's schema."""
    return f"# yaml-language-server: $schema={schema}"


def _labeler() -> Schema:
    """A labeler of any kind; of those that other packages bring and that are not loaded, only the kind is known."""
    kinds = [
        {
            "if": {"properties": {"kind": {"const": name}}, "required": ["kind"]},
            "then": {"$ref": f"#/$defs/{kind.section.__name__}"},
        }
        for name, kind in LABELER_KINDS.items()
    ]
    kind = {"description": "what gives the labels", "enum": known_kinds()}
    return {"type": "object", "properties": {"kind": kind}, "allOf": kinds}


def _add_aliases(schema: Any) -> None:
    """Losses have names that are read as others."""
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        if isinstance(value, dict) and set(LOSS_TYPE_ALIASES.values()) <= set(map(str, value.get("enum") or ())):
            value["enum"] = [*value["enum"], *LOSS_TYPE_ALIASES]
        _add_aliases(value)


def _add_training_arguments(schema: Schema, section: str) -> None:
    """The keys that pass through, where the installed transformers says which there are."""
    names = passing_names(section)
    for name in names:
        types = argument_json_types(name)
        schema["properties"].setdefault(name, {"type": types} if types else {})
    schema["additionalProperties"] = not names


def _needed_without_presets(root: Schema, definitions: Schema) -> Iterator[Schema]:
    """Takes what a preset may fill in from the required keys, and requires it where no such preset is named."""
    filled: dict[KeyPath, list[str]] = {}
    for name in preset_names():
        for path in _paths(preset_keys(name), ()):
            filled.setdefault(path, []).append(name)
    needed = {}
    for path, names in filled.items():
        holder = _section_at(root, definitions, path[:-1])
        if path[-1] in holder.get("required", ()) and path not in [(name,) for name in NEVER_FILLED]:
            needed[path] = names
    for path in needed:
        _section_at(root, definitions, path[:-1])["required"].remove(path[-1])
    for path, names in needed.items():
        condition = {"properties": {"preset": {"enum": names}}, "required": ["preset"]}
        yield {"if": condition, "else": _requiring(path)}


def _requiring(path: KeyPath) -> Schema:
    """A schema by which the key has to be there, where its section is."""
    schema: Schema = {"required": [path[-1]]}
    for name in reversed(path[:-1]):
        schema = {"properties": {name: schema}}
    return schema


def _section_at(root: Schema, definitions: Schema, path: KeyPath) -> Schema:
    """The definition that a path of sections leads to; nothing for labelers, whose names are anybody's choice."""
    schema = root
    for name in path:
        property_: Schema = schema.get("properties", {}).get(name, {})
        places = [property_, *property_.get("anyOf", ())]
        named = [place["$ref"].rpartition("/")[2] for place in places if "$ref" in place]
        if not named:
            return {}
        schema = definitions[named[0]]
    return schema


def _paths(tree: Any, path: KeyPath) -> Iterator[KeyPath]:
    for name, value in tree.items() if isinstance(tree, dict) else ():
        yield (*path, name)
        yield from _paths(value, (*path, name))


def _without_titles(schema: Any) -> Any:
    """Without the names that pydantic makes of keys: editors would show them in the place of descriptions."""
    if isinstance(schema, list):
        return [_without_titles(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_titles(value) for name, value in schema.items() if name != "title" or not isinstance(value, str)
    }
