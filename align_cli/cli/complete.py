"""What a shell is offered where it asks how an argument goes on: recipes, runs, keys and values, names.

Typer brings the rest: `align --install-completion`. Nothing is imported or read before a shell asks, and what is wrong
with a recipe is no matter of completion: then nothing is offered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

MOST_FOLDERS = 2000
"""Looked at, so that a shell waits for no disk."""
DEPTH = 3
RUN_MARK = "run.json"
RECIPE_SUFFIXES = (".yaml", ".yml")
RECIPE_KEY = b"output_dir:"
"""Whatever else a file of YAML is, one without it is no recipe."""
LABELER_KEYS = (".labeler", ".scorer", ".scorers")


def recipe_files(incomplete: str) -> list[str]:
    """Recipes below the folder that is typed so far; none of those that runs keep."""
    found = []
    for folder, files in _folders(incomplete):
        if RUN_MARK not in files:
            found += [_joined(folder, name) for name in files if name.endswith(RECIPE_SUFFIXES)]
    return [path for path in sorted(found) if path.startswith(incomplete) and _is_recipe(path)]


def run_folders(incomplete: str) -> list[str]:
    """Folders of runs below the folder that is typed so far."""
    found = [folder for folder, files in _folders(incomplete) if RUN_MARK in files and folder]
    return [folder for folder in sorted(found) if folder.startswith(incomplete)]


def recipe_names() -> list[str]:
    """The recipes that come with align."""
    from align_cli.recipe.shipped import recipe_names

    return recipe_names()


def preset_names() -> list[str]:
    """The presets."""
    from align_cli.recipe.presets import preset_names

    return preset_names()


def overrides(context: typer.Context, incomplete: str) -> list[str]:
    """Keys of the recipe, as `method.beta=`, and what they may be.

    Some shells split a word at its `=`: the key, or the key and `=`, then stand among what is typed already.
    """
    typed, labelers = _typed(context), _labelers_of(context.params.get("recipe"))
    if typed and (typed[-1] == "=" or ("=" not in typed[-1] and "=" not in incomplete)):
        before = [word for word in typed if word != "="]
        if before and before[-1] in _keys(labelers):
            return _values(before[-1], labelers)
    key, is_value, _ = incomplete.partition("=")
    if is_value:
        return [f"{key}={value}" for value in _values(key, labelers)]
    keys = [known for known in _keys(labelers) if known.startswith(incomplete)]
    # Of a single key some values are offered too: a shell that knows one way to go on adds a space behind it.
    return [f"{one}={value}" for one in keys for value in ("", *(_values(one, labelers) if len(keys) == 1 else ()))]


def _typed(context: typer.Context) -> list[str]:
    return [str(word) for word in context.params.get("overrides") or []]


def _labelers_of(recipe: Any) -> dict[str, str]:
    """The labelers that a recipe defines, each with its kind; none where it cannot be read."""
    from align_cli.errors import AlignError
    from align_cli.recipe.written.reader import read_file
    from align_cli.recipe.written.tree import plain

    try:
        root = read_file(recipe)[1] if recipe else None
        tree = plain(root) if root is not None else None
    except (AlignError, OSError, ValueError):
        return {}
    written = tree.get("labelers") if isinstance(tree, dict) else None
    named = written.items() if isinstance(written, dict) else ()
    return {name: str(labeler["kind"]) for name, labeler in named if isinstance(labeler, dict) and "kind" in labeler}


def _keys(labelers: dict[str, str]) -> list[str]:
    """Every key that has a value, those of the recipe's labelers by their names."""
    from align_cli.recipe import describe_keys
    from align_cli.recipe.keys import NAME
    from align_cli.recipe.sections.training_arguments import training_argument_names

    docs = describe_keys()
    sections = {doc.path.rpartition(".")[0] for doc in docs}
    keys = []
    for doc in docs:
        if doc.path in sections:
            continue
        if NAME not in doc.path:
            keys.append(doc.path)
        else:
            keys += [doc.path.replace(NAME, name) for name, kind in labelers.items() if kind in (doc.kinds or (kind,))]
    return list(dict.fromkeys([*keys, *(f"train.{name}" for name in training_argument_names())]))


def _values(key: str, labelers: dict[str, str]) -> list[str]:
    """What a key is usually set to: its choices, or its default."""
    from align_cli.recipe.keys import choices, field_at, labeler_kinds

    path = tuple(key.split("."))
    if key == "preset":
        return preset_names()
    if key.endswith(LABELER_KEYS) and path[0] in ("method", "evaluate"):
        return list(labelers)
    if path[0] == "labelers" and path[-1] == "kind":
        return labeler_kinds()
    info = field_at(path)
    if info is None:
        return []
    if info.annotation is bool:
        return ["true", "false"]
    known = choices(info)
    default = [] if known or info.is_required() or info.default is None else [str(info.default)]
    return known or [one for one in default if "=" not in one and " " not in one]


def _folders(incomplete: str) -> Iterator[tuple[str, list[str]]]:
    """The folder that a path begins with and those below it, each with its files; hidden ones are left out."""
    begin = incomplete.rpartition("/")[0] + "/" if "/" in incomplete else ""
    waiting, num_seen = [(begin, 0)], 0
    while waiting and num_seen < MOST_FOLDERS:
        folder, depth = waiting.pop(0)
        num_seen += 1
        try:
            entries = sorted(os.scandir(Path(folder).expanduser()), key=lambda entry: entry.name)
            names = [entry.name for entry in entries if entry.is_file()]
            inner = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        except OSError:
            continue
        yield folder.removesuffix("/"), names
        if depth < DEPTH and RUN_MARK not in names:
            waiting += [(f"{folder}{name}/", depth + 1) for name in inner]


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_recipe(path: str) -> bool:
    try:
        with Path(path).expanduser().open("rb") as file:
            return any(line.startswith(RECIPE_KEY) for line in file.read(65536).splitlines())
    except OSError:
        return False
