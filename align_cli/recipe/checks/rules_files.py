"""Rules on what a recipe names outside itself: worlds, local files and Python functions.

Relative paths start at the folder that the command runs in. Nothing is imported or opened, Hub ids are not looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from align_cli.errors import nearest
from align_cli.recipe.checks.view import RuleFault, UnsoundError, View, rule_fault
from align_cli.recipe.written.tree import escaped, shown

_DATA_KEYS = ("data.prompts", "data.preferences", "data.eval_prompts", "data.eval_preferences", "policy.sft.dataset")
_SENTENCE_KEYS = ("reviews.liked", "reviews.disliked")
_DATA_EXTENSIONS = (
    ".jsonl",
    ".json",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".txt",
    ".gz",
    ".zst",
    ".xz",
    ".bz2",
    ".zip",
)
_PATH_STARTS = ("./", "../", "/")


def _reviews_are_described(view: View) -> Iterator[RuleFault]:
    if view.has("reviews"):
        return
    users = [key for key in _DATA_KEYS if view.sound(key) == "reviews"]
    if users:
        what = f"{users[0]} is reviews, and the recipe has no section reviews"
        yield rule_fault(users[0], what, "add the section reviews with liked and disliked, a text file each")


def _data_files_exist(view: View) -> Iterator[RuleFault]:
    for key in _DATA_KEYS:
        value = view.sound(key)
        if value is not None and (value.startswith(_PATH_STARTS) or value.lower().endswith(_DATA_EXTENSIONS)):
            yield from _missing(key, value)


def _sentence_files_exist(view: View) -> Iterator[RuleFault]:
    for key in _SENTENCE_KEYS:
        if view.has("reviews") and (value := view.sound(key)) is not None:
            yield from _missing(key, value)


def _local_model_exists(view: View) -> Iterator[RuleFault]:
    value = view.get("policy.model_name_or_path")
    if value is not None and value.startswith(_PATH_STARTS):
        yield from _missing("policy.model_name_or_path", value)


def _texts_are_not_empty(view: View) -> Iterator[RuleFault]:
    for key in ("output_dir", "policy.model_name_or_path", *_DATA_KEYS, *_SENTENCE_KEYS):
        if (value := view.sound(key)) is not None and not value.strip():
            yield rule_fault(key, f"{key} is {shown(value)}; it must not be empty", "")


def _functions_can_be_found(view: View) -> Iterator[RuleFault]:
    for name in view.labeler_names():
        try:
            function = view.labeler(name).get("function")
        except UnsoundError:
            continue
        if function is not None:
            yield from _function_fault(("labelers", name, "function"), f"labelers.{escaped(name)}.function", function)


def _function_fault(path: tuple[str, ...], key: str, function: str) -> Iterator[RuleFault]:
    module, _, name = function.rpartition(":")
    is_file = module.endswith(".py")
    is_module = all(part.isidentifier() for part in module.split("."))
    if not (is_file or is_module) or not all(part.isidentifier() for part in name.split(".")):
        what = f"{key} is {shown(function)}; it must be package.module:name or path/to/file.py:name"
        yield rule_fault(path, what, "as in align_cli.playground:hidden_reward")
    elif is_file and not _exists(module):
        yield rule_fault(path, f"{key}: there is no file {shown(module)}", _near_file(module))


def _missing(key: str, value: str) -> Iterator[RuleFault]:
    if value.strip() and not _exists(value):
        yield rule_fault(key, f"{key} is {shown(value)}; there is no such file or folder", _near_file(value))


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _near_file(text: str) -> str:
    path = Path(text)
    folder = path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except (OSError, ValueError):
        return f"there is no folder {shown(str(folder))} either; paths start at the folder that align runs in"
    near = nearest(path.name, names)
    if near is None:
        return "paths start at the folder that align runs in"
    prefix = re.match(r"(\./)?", text)
    return f"did you mean {escaped((prefix[0] if prefix else '') + str(folder / near))}?"


FILE_RULES = (
    _reviews_are_described,
    _data_files_exist,
    _sentence_files_exist,
    _local_model_exists,
    _texts_are_not_empty,
    _functions_can_be_found,
)
