"""A recipe as it was written: values with the places that they stand at.

`reader` and `overrides` build these nodes, `load` reads them. An alias (`*name`) shares the node of its anchor, so
that a change at the anchor changes every alias; the place of each use is kept apart. Knows nothing of the recipe's
keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from align_cli.errors import Fault
from align_cli.redaction import masked

MAX_DEPTH = 40
MAX_VALUES = 10_000
_LONGEST_SHOWN = 60
_LONGEST_LINE = 120

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Source:
    """A text that values come from: the recipe's file, or one override.

    Args:
        name: the file's path as the user gave it, or the override's text.
        lines: the file's lines; empty for an override.
        rank: 0 for the file, the override's number from 1 for an override; faults are shown in this order.
        is_preset: whether it is a preset's text, which the user did not write.
    """

    name: str
    lines: tuple[str, ...] = ()
    rank: int = 0
    is_preset: bool = False

    @property
    def is_override(self) -> bool:
        """Whether this is an override."""
        return self.rank > 0


@dataclass(frozen=True)
class Place:
    """Where in a source something stands; line and column count from 1."""

    source: Source
    line: int = 1
    column: int = 1

    @property
    def where(self) -> str:
        """The place in words, as `Fault.where` wants it."""
        if self.source.is_override:
            return f"override '{escaped(masked(self.source.name))}'"
        return f"{escaped(self.source.name)}:{self.line}:{self.column}"

    @property
    def snippet(self) -> str:
        """The source line with a caret below the place; empty for an override, whose text `where` shows."""
        if not 0 < self.line <= len(self.source.lines):
            return ""
        line = masked(self.source.lines[self.line - 1])
        column = min(self.column, len(line) + 1)
        start = max(0, column - _LONGEST_LINE // 2)
        before = escaped(line[start : column - 1])
        return f"  {before}{escaped(line[column - 1 : start + _LONGEST_LINE])}\n  {' ' * len(before)}^"

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts faults as a reader of the recipe meets them."""
        return (self.source.rank, self.line, self.column)


@dataclass(frozen=True)
class PlacedFault:
    """A fault whose place is known."""

    place: Place
    what: str
    hint: str = ""
    path: KeyPath = ()

    def fault(self) -> Fault:
        """The fault as users see it."""
        place = self.place
        stands = (None, None) if place.source.is_override else (place.line, place.column)
        return Fault(self.what, place.where, self.hint, place.snippet, dotted(self.path), *stands)


@dataclass(eq=False)
class Node:
    """A value: a scalar, a list of entries, or a mapping of entries. Changed in place by overrides."""

    place: Place
    value: Any


@dataclass(eq=False)
class Entry:
    """One use of a node, in a mapping or a list.

    Args:
        key_place: where the key stands; in a list, where the value does.
        use_place: where the value, or the alias that stands for it, is written.
        is_alias: whether the node belongs to an anchor elsewhere, and is only used here.
    """

    key_place: Place
    use_place: Place
    node: Node
    is_alias: bool = False

    @property
    def place(self) -> Place:
        """Where to point to for a fault in the value."""
        return self.node.place if self.node.place.source.is_override else self.use_place


@dataclass(frozen=True)
class Written:
    """Where a recipe's keys are written; empty for one that was read from nowhere.

    Two recipes with the same values are equal wherever these are written.
    """

    root: Node | None = field(default=None, compare=False)

    def fault(self, key: str, what: str, hint: str = "") -> Fault:
        """The fault of a key's value, at the place of the value, or else of the section that would hold it."""
        if self.root is None:
            return Fault(what, key, hint, key=key)
        path = tuple(key.split("."))
        return PlacedFault(blamed_place(self.root, path), what, hint, path).fault()

    def located(self, fault: Fault) -> Fault:
        """The fault with key, line and column, where what it calls its place is a key that is written."""
        if fault.key or self.root is None or find(self.root, tuple(fault.where.split("."))) is None:
            return fault
        found = self.fault(fault.where, fault.what)
        return replace(fault, key=found.key, line=found.line, column=found.column)


class TooLargeError(Exception):
    """Expanding the aliases gives more values, or deeper ones, than any recipe needs."""


@dataclass
class _Budget:
    left: int = field(default=MAX_VALUES)


def plain(node: Node) -> Any:
    """The node as dicts, lists and scalars.

    Raises:
        TooLargeError: if it expands to more than MAX_VALUES values or is nested deeper than MAX_DEPTH.
    """
    return _plain(node, 0, _Budget())


def _plain(node: Node, depth: int, budget: _Budget) -> Any:
    budget.left -= 1
    if depth > MAX_DEPTH or budget.left < 0:
        raise TooLargeError
    if isinstance(node.value, dict):
        return {key: _plain(entry.node, depth + 1, budget) for key, entry in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(entry.node, depth + 1, budget) for entry in node.value]
    return node.value


def find(root: Node, path: KeyPath) -> Entry | None:
    """The entry at a key path, or None where there is none."""
    entry: Entry | None = None
    node = root
    for part in path:
        entry = _child(node, part)
        if entry is None:
            return None
        node = entry.node
    return entry


def _child(node: Node, part: str | int) -> Entry | None:
    if isinstance(node.value, dict) and isinstance(part, str):
        return node.value.get(part)
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        entry: Entry = node.value[part]
        return entry
    return None


def value_place(root: Node, path: KeyPath) -> Place:
    """Where the value at a key path stands; where it is absent, where the deepest section that would hold it does."""
    entry = find(root, path)
    return entry.place if entry else section_place(root, path[:-1])


def key_place(root: Node, path: KeyPath) -> Place:
    """Where the key of a key path stands, or the deepest section that would hold it."""
    entry = find(root, path)
    return entry.key_place if entry else section_place(root, path[:-1])


def blamed_place(root: Node, path: KeyPath) -> Place:
    """Where a value stands; for a section its key, since its value starts with a key that is not to blame."""
    entry = find(root, path)
    return section_place(root, path) if entry and isinstance(entry.node.value, dict) else value_place(root, path)


def leaves(root: Node, path: KeyPath) -> Iterator[tuple[KeyPath, Place]]:
    """What is written at and below a key path and is no section, with its place."""
    entry = find(root, path)
    if entry is not None and isinstance(entry.node.value, dict):
        for name in entry.node.value:
            yield from leaves(root, (*path, name))
    elif entry is not None:
        yield path, entry.place


def section_place(root: Node, path: KeyPath) -> Place:
    """Where the key of the deepest existing part of a key path stands; the start of the file for the whole recipe."""
    for end in range(len(path), 0, -1):
        entry = find(root, path[:end])
        if entry is not None:
            return entry.place if entry.place.source.is_override else entry.key_place
    return Place(root.place.source)


def dotted(path: Sequence[str | int]) -> str:
    """A key path in words: `a.b[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{_short(escaped(part))}" if text else _short(escaped(part))
    return text


def escaped(text: str) -> str:
    """The text with everything that a terminal would not print, line breaks included, as escape sequences."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def shown(value: Any) -> str:
    """A recipe's value in words, short enough for a message and safe for a terminal."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{_short(escaped(masked(value)))}'"
    if isinstance(value, dict):
        return "a section" if value else "an empty section"
    if isinstance(value, list):
        return _short(f"[{', '.join(shown(item) for item in value[:8])}{', ...' if len(value) > 8 else ''}]")
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
