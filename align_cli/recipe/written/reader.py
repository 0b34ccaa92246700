"""YAML text to a tree of values with their places.

Builds the tree from PyYAML's event stream, so that every fault has a line and a column, nothing of Python is ever built
from a tag, and hostile files (aliases that contain themselves, aliases that multiply, endless nesting) end in a fault.
Knows nothing of the recipe's keys. Called by `load` for files and by `overrides` for values.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from align_cli.errors import RecipeError, nearest
from align_cli.recipe.written.scalars import has_control_character, read_scalar
from align_cli.recipe.written.tree import MAX_DEPTH, MAX_VALUES, Entry, Node, Place, PlacedFault, Source, escaped, shown

MAX_BYTES = 256 * 1024
RECIPE_SUFFIXES = (".yaml", ".yml")
OPEN_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Names of what the shell has opened for this process: opening them waits for nobody."""
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_COLLECTION_TAGS = {
    MappingStartEvent: ("!", "tag:yaml.org,2002:map"),
    SequenceStartEvent: ("!", "tag:yaml.org,2002:seq"),
}
_SYNTAX_HINTS = (
    ("mapping values are not allowed", "put text that holds ': ' in quotes, or mend the indentation"),
    ("could not find expected ':'", "a line of a section reads `key: value`"),
    ("expected <block end>", "mend the indentation: the keys of a section start in the same column"),
    ("found character '%'", "put text that starts with % in quotes"),
    ("found character '@'", "put text that starts with @ in quotes"),
    ("found character '`'", "put text that starts with ` in quotes"),
    ("found unexpected end of stream", "a quote is not closed"),
    ("while parsing a flow", "a bracket is not closed, or a comma is missing"),
    ("expected ',' or", "a bracket is not closed, or a comma is missing"),
)


def read_file(path: str | Path) -> tuple[Source, Node | None, list[PlacedFault]]:
    """Read a recipe's file.

    Returns:
        The source, its tree (None where there is none to speak of) and the faults of its YAML.

    Raises:
        RecipeError: if the file cannot be read as text.
    """
    text = _decode(path, _read_bytes(path))
    source = Source(str(path), tuple(_LINE_BREAK.split(text)))
    root, faults = read_text(text, source)
    return source, root, faults


def read_text(text: str, source: Source) -> tuple[Node | None, list[PlacedFault]]:
    """Read one YAML document.

    Returns:
        Its tree, None for an empty document or after a fault that ends the reading; and its faults.
    """
    composer = _Composer(source)
    try:
        return composer.document(yaml.parse(text, Loader=yaml.SafeLoader)), composer.faults
    except _EndOfReadingError as end:
        return None, [*composer.faults, end.fault]
    except yaml.reader.ReaderError as error:
        return None, [*composer.faults, _unreadable_character(text, source, error)]
    except yaml.MarkedYAMLError as error:
        return None, [*composer.faults, _syntax_fault(source, error)]
    except (yaml.YAMLError, ValueError, OverflowError, IndexError) as error:  # PyYAML on escapes such as "\UFFFFFFFF"
        return None, [*composer.faults, PlacedFault(Place(source), f"this is not valid YAML: {escaped(str(error))}")]


def _read_bytes(path: str | Path) -> bytes:
    where = escaped(str(path)) or "''"
    try:
        mode = Path(path).stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or str(path).startswith(OPEN_STREAMS)):
            what = "this is a pipe or a device; a recipe is a YAML file"
            raise RecipeError(what, where=where, hint="write the recipe to a file first")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError("there is no such recipe", where=where, hint=_near_file(Path(path))) from None
    except IsADirectoryError:
        raise RecipeError("this is a folder; a recipe is a YAML file", where=where, hint=_inside(Path(path))) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"the recipe cannot be read: {escaped(reason)}", where=where) from None
    if len(data) > MAX_BYTES:
        raise RecipeError(f"the recipe is larger than {MAX_BYTES // 1024} KiB", where=where, hint="is this a recipe?")
    return data


def _near_file(path: Path) -> str:
    names = _recipes_in(path.parent)
    near = nearest(path.name, names)
    if near:
        return f"did you mean {escaped(str(path.parent / near))}?"
    if not path.parent.exists():
        near = nearest(path.parent.name, _folders_with(path.name, path.parent.parent))
        found = f"; did you mean {escaped(str(path.parent.parent / near / path.name))}?" if near else ""
        return f"there is no folder {escaped(str(path.parent))}{found}"
    return (
        f"recipes in that folder: {escaped(', '.join(names[:8]))}" if names else "no recipe (*.yaml) is in that folder"
    )


def _inside(path: Path) -> str:
    names = _recipes_in(path)
    return f"recipes in it: {escaped(', '.join(names[:8]))}" if names else "no recipe (*.yaml) is in it"


def _folders_with(name: str, folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if (entry / name).is_file())
    except (OSError, ValueError):
        return []


def _recipes_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix in RECIPE_SUFFIXES)
    except (OSError, ValueError):
        return []


def _decode(path: str | Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise RecipeError(
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            where=f"{escaped(str(path))}:{line}:{column}",
            hint="save the recipe as UTF-8 text",
        ) from None


def _unreadable_character(text: str, source: Source, error: yaml.reader.ReaderError) -> PlacedFault:
    position = error.position if isinstance(error.position, int) else 0
    before = _LINE_BREAK.split(text[:position])
    place = Place(source, len(before), len(before[-1]) + 1)
    return PlacedFault(place, f"U+{ord(text[position]):04X} may not stand in YAML", "remove the control character")


def _syntax_fault(source: Source, error: yaml.MarkedYAMLError) -> PlacedFault:
    mark = error.problem_mark or error.context_mark
    place = Place(source, mark.line + 1, mark.column + 1) if mark else Place(source)
    problem = escaped(error.problem or error.context or "syntax error")
    if "'\\t'" in problem or "'\\\\t'" in problem:
        return PlacedFault(place, "a tab stands where YAML wants spaces", "indent with spaces")
    words = f"{error.context or ''}: {problem}"
    hint = next((hint for part, hint in _SYNTAX_HINTS if part in words), "")
    return PlacedFault(place, f"this is not valid YAML: {problem}", hint)


class _EndOfReadingError(Exception):
    """A fault after which the rest of the document means nothing."""

    def __init__(self, fault: PlacedFault) -> None:
        self.fault = fault
        super().__init__(fault.what)


@dataclass
class _Composer:
    """Builds the tree of one document; nesting is bounded, so that recursion is safe."""

    source: Source
    faults: list[PlacedFault] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    unfinished: set[int] = field(default_factory=set)
    num_values: int = 0

    def document(self, events: Iterator[yaml.Event]) -> Node | None:
        """The tree of the only document of a stream, or None for an empty one."""
        root = None
        for event in events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    self._end(event, "a second YAML document starts here", "a recipe is one document; remove the `---`")
                root = self._entry(next(events), events, 0).node
        return root

    def _entry(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int, key: Place | None = None) -> Entry:
        place = self._place(event)
        self._count(event, 1, depth)
        if isinstance(event, AliasEvent):
            node = self._aliased(event)
        elif isinstance(event, ScalarEvent):
            node = self._anchored(event, Node(place, self._scalar(event)))
        else:
            node = self._collection(event, events, depth)
        return Entry(key or place, place, node, is_alias=isinstance(event, AliasEvent))

    def _aliased(self, event: AliasEvent) -> Node:
        name = str(event.anchor)
        node = self.anchors.get(name)
        if node is None:
            self._end(
                event, f"*{escaped(name)} names no anchor above it", f"set it once, as in `key: &{escaped(name)} value`"
            )
        if id(node) in self.unfinished:
            self._end(event, f"*{escaped(name)} stands inside its own anchor", "a value cannot contain itself")
        return node

    def _anchored(self, event: Any, node: Node) -> Node:
        if event.anchor is not None:
            self.anchors[str(event.anchor)] = node
        return node

    def _scalar(self, event: ScalarEvent) -> Any:
        text = str(event.value)
        if has_control_character(text):
            self._fault(event, f"{shown(text)} holds a control character", "remove it")
            return None
        try:
            return read_scalar(text, quoted=not event.implicit[0] and event.tag is None, tag=event.tag)
        except ValueError as error:
            tag = f" {escaped(str(event.tag))}" if event.tag else ""
            self._fault(event, f"{shown(text)}{tag} {error}", "a recipe holds plain text, numbers, lists and sections")
            return None

    def _collection(self, event: Any, events: Iterator[yaml.Event], depth: int) -> Node:
        if event.tag is not None and event.tag not in _COLLECTION_TAGS[type(event)]:
            self._fault(
                event, f"the tag {escaped(str(event.tag))} is refused", "a recipe holds plain values; remove the tag"
            )
        is_mapping = isinstance(event, MappingStartEvent)
        node = self._anchored(event, Node(self._place(event), {} if is_mapping else []))
        self.unfinished.add(id(node))
        if is_mapping:
            self._fill_mapping(node, events, depth)
        else:
            while not isinstance(event := next(events), SequenceEndEvent):
                node.value.append(self._entry(event, events, depth + 1))
        self.unfinished.discard(id(node))
        return node

    def _fill_mapping(self, node: Node, events: Iterator[yaml.Event], depth: int) -> None:
        merged: list[Entry] = []
        while not isinstance(event := next(events), MappingEndEvent):
            key = self._key(event)
            entry = self._entry(next(events), events, depth + 1, self._place(event))
            if key == "<<" and isinstance(event, ScalarEvent) and event.style is None:
                merged.append(entry)
            elif key in node.value:
                first = node.value[key].key_place.line
                self._fault(
                    event, f"the key {shown(key)} stands here a second time", f"it stands in line {first} too; keep one"
                )
            else:
                node.value[key] = entry
        for entry in merged:
            self._merge(node, entry)

    def _key(self, event: yaml.Event) -> str:
        if isinstance(event, AliasEvent):
            key = self._aliased(event).value
            if isinstance(key, str):
                return key
        if not isinstance(event, ScalarEvent):
            self._end(event, "a key must be plain text", "put text that starts with [ or { in quotes")
        self._count(event, 1, 0)
        self._scalar(event)
        key = str(event.value)
        key = escaped(key) if has_control_character(key) else key  # half a surrogate pair would stop pydantic
        self._anchored(event, Node(self._place(event), key))
        return key

    def _merge(self, node: Node, merged: Entry) -> None:
        parts = merged.node.value if isinstance(merged.node.value, list) else [merged]
        for part in parts:
            if not isinstance(part.node.value, dict):
                self.faults.append(PlacedFault(part.place, "`<<` takes sections", "give it an alias of a section"))
                continue
            self._count_values(part.place, len(part.node.value))
            for key, entry in part.node.value.items():
                node.value.setdefault(key, replace(entry, is_alias=True))

    def _count(self, event: yaml.Event, number: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._end(event, f"values are nested more than {MAX_DEPTH} deep here", "no recipe needs that")
        self._count_values(self._place(event), number)

    def _count_values(self, place: Place, number: int) -> None:
        self.num_values += number
        if self.num_values > MAX_VALUES:
            raise _EndOfReadingError(PlacedFault(place, f"the recipe holds more than {MAX_VALUES} values"))

    def _place(self, event: yaml.Event) -> Place:
        mark = event.start_mark
        return Place(self.source, mark.line + 1, mark.column + 1) if mark else Place(self.source)

    def _fault(self, event: yaml.Event, what: str, hint: str) -> None:
        self.faults.append(PlacedFault(self._place(event), what, hint))

    def _end(self, event: yaml.Event, what: str, hint: str) -> NoReturn:
        raise _EndOfReadingError(PlacedFault(self._place(event), what, hint))
