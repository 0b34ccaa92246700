"""Looks at the disk: whether what a key names is there.

Relative paths start at the folder that the command runs in. Nothing is imported or opened, Hub ids are not looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from align_cli.errors import DataError, nearest
from align_cli.recipe.checking.view import RuleFault, View, rule_fault
from align_cli.recipe.data_names import BUILT_IN_WORLDS, DataName, exists
from align_cli.recipe.written.tree import escaped, shown

PATH_STARTS = ("./", "../", "/")
_DATA_EXTENSIONS = (
    ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz", ".zst", ".xz", ".bz2", ".zip",
)  # fmt: skip


def missing_data(view: View, *keys: str) -> Iterator[RuleFault]:
    """Those of the keys that name a file or folder, by the looks of it, which is not there."""
    for key in keys:
        if (value := view.sound(key)) is None:
            continue
        try:
            name = DataName.of(value)
        except DataError as error:
            yield rule_fault(key, f"{key} is {shown(value)}; {error.faults[0].what}", error.faults[0].hint)
            continue
        place = name.place
        if place in BUILT_IN_WORLDS and name != DataName(place) and not exists(place):
            what = f"{key} is {shown(value)}; a built-in world has neither splits nor parts"
            yield rule_fault(key, what, f"write {place} alone, or name a file")
        if is_path(place):
            yield from missing_file(key, place)


def is_path(place: str) -> bool:
    """Whether what could be a Hub id too is a file or folder, by the looks of it."""
    return place.startswith(PATH_STARTS) or place.lower().endswith(_DATA_EXTENSIONS)


def missing_file(key: str, value: str) -> Iterator[RuleFault]:
    """The fault of a file or folder that is not there; an empty name is `empty_texts`'."""
    if value.strip() and not exists(value):
        yield rule_fault(key, f"{key} is {shown(value)}; there is no such file or folder", near_file(value))


def empty_texts(view: View, *keys: str) -> Iterator[RuleFault]:
    """Those of the keys whose text is empty."""
    for key in keys:
        if (value := view.sound(key)) is not None and not value.strip():
            yield rule_fault(key, f"{key} is {shown(value)}; it must not be empty", "")


def near_file(text: str) -> str:
    """What to do about a file that is not there: the nearest one in its folder."""
    path = Path(text)
    folder = path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except (OSError, ValueError):
        return f"there is no folder {shown(str(folder))} either; paths start at the folder that align runs in"
    stems = {Path(name).stem: name for name in names}  # an ending in common makes no two names alike
    near = stems.get(nearest(path.stem, stems) or "")
    if near is None:
        return "paths start at the folder that align runs in"
    prefix = re.match(r"(\./)?", text)
    return f"did you mean {escaped((prefix[0] if prefix else '') + str(folder / near))}?"
