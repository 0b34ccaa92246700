"""One row at a time from a text file: JSON Lines, JSON, CSV or plain text, compressed or not.

Owns the faults of the file itself and where a row stands: `rows.jsonl:12` is a line, `rows.json[3]` an element of a
list, counted from 0. Knows nothing of what rows mean.

`.jsonl`, `.json` (a list of objects), `.csv` (with a header line) and `.txt` (one text a line), each also with `.gz`.
Text is UTF-8, with or without a byte-order mark; a `.txt` that is not UTF-8 is taken as Latin-1. Blank lines are
skipped. A CSV file has no types: its `label` column is read as numbers, everything else as text, and an empty label
as none.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.data.faults import RowError, describe, shorten
from align_cli.data.limits import bounded_bytes, bounded_lines, unpacked_limit
from align_cli.data.strict_json import JsonSyntaxError, decode_at, skip_whitespace
from align_cli.errors import DataError, Fault

TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".txt")
KNOWN_SUFFIXES = (*TEXT_SUFFIXES, *(suffix + ".gz" for suffix in TEXT_SUFFIXES), ".parquet")
MAX_CSV_FIELD_CHARS = 2**31 - 1


class SourceRow(NamedTuple):
    """One object of a source, and its place there."""

    where: str
    fields: dict[str, Any]


def suffix_of(path: Path) -> str:
    """The ending in lower case, with a `.gz` as part of it: `.jsonl.gz`."""
    name = path.name.lower()
    inner = Path(name.removesuffix(".gz")).suffix
    return inner + ".gz" if name.endswith(".gz") else inner


def read_text_file(name: str, path: Path) -> Iterator[SourceRow | Fault]:
    """The rows of a text file, and in between the faults after which reading can go on.

    Args:
        name: what the user called the file; begins every place.
        path: a file whose name has one of `TEXT_SUFFIXES`, with or without `.gz`.

    Raises:
        DataError: for a fault after which nothing more can be read.
    """
    suffix = suffix_of(path)
    is_packed = suffix.endswith(".gz")
    try:
        limit = unpacked_limit(path.stat().st_size) if is_packed else None
        with io.BufferedReader(gzip.open(path, "rb")) if is_packed else path.open("rb") as handle:
            if suffix.startswith(".jsonl"):
                yield from _read_jsonl(name, bounded_lines(handle, name, limit))
            else:
                read = {".json": _read_json, ".csv": _read_csv, ".txt": _read_txt}[suffix.removesuffix(".gz")]
                yield from read(name, bounded_bytes(handle, name, limit))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"the gzip stream is damaged ({error})", where=name, hint="download or compress the file again"
        ) from error
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error})", where=name) from error


def _read_jsonl(name: str, lines: Iterator[bytes]) -> Iterator[SourceRow | Fault]:
    is_first_row = True
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = _without_mark(line, name)
        if not line.strip():
            continue
        if is_first_row and line.lstrip().startswith(b"["):
            raise DataError(
                f"this is a list, not one object a line: {shorten(line.decode('utf-8', 'replace').strip())}",
                where=f"{name}:{number}",
                hint="a JSON list belongs in a file whose name ends in .json",
            )
        is_first_row = False
        try:
            yield SourceRow(f"{name}:{number}", _decode_line(line))
        except RowError as error:
            yield error.at(f"{name}:{number}")


def _decode_line(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise _not_utf8(line, error) from None
    try:
        value, end, problem = decode_at(text, 0)
        if skip_whitespace(text, end) < len(text):
            raise JsonSyntaxError("Extra data", end)
    except JsonSyntaxError as error:
        raise RowError(
            f"not valid JSON at character {error.position + 1} ({error.reason}): {shorten(text)}",
            "every line must hold one JSON object",
        ) from None
    return _object_of(value, problem)


def _read_json(name: str, data: bytes) -> Iterator[SourceRow | Fault]:
    text = _decode_all(data, name)
    start = skip_whitespace(text, 0)
    if start == len(text):
        return
    if text[start] != "[":
        raise DataError(
            f"the file must hold a list of objects; it begins with {shorten(text[start:])}",
            where=name,
            hint="put the objects in [ ], or let the name end in .jsonl if every line is an object",
        )
    index = 0
    try:
        for value, problem in _list_elements(text, start + 1):
            try:
                yield SourceRow(f"{name}[{index}]", _object_of(value, problem))
            except RowError as error:
                yield error.at(f"{name}[{index}]")
            index += 1
    except JsonSyntaxError as error:
        found = shorten(text[error.position :]) if error.position < len(text) else "the end of the file"
        line = text.count("\n", 0, error.position) + 1
        hint = f"look at element [{index}] of the list; nothing from there on was read"
        yield Fault(f"not valid JSON ({error.reason}) at {found}", f"{name}:{line}", hint)


def _list_elements(text: str, start: int) -> Iterator[tuple[Any, RowError | None]]:
    """The elements of a JSON list one by one, so that each can be told its place."""
    position = skip_whitespace(text, start)
    is_open = not text.startswith("]", position)
    while is_open:
        value, end, problem = decode_at(text, position)
        yield value, problem
        position = skip_whitespace(text, end)
        is_open = text.startswith(",", position)
        if is_open:
            position += 1
        elif not text.startswith("]", position):
            raise JsonSyntaxError("Expecting ',' or ']'", position)
    rest = skip_whitespace(text, position + 1)
    if rest < len(text):
        raise JsonSyntaxError("Extra data", rest)


def _object_of(value: Any, problem: RowError | None) -> dict[str, Any]:
    if problem:
        raise problem
    if not isinstance(value, dict):
        raise RowError(f"{describe(value)} is not an object", 'a row looks like {"prompt": "..."}')
    return value


def _read_csv(name: str, data: bytes) -> Iterator[SourceRow | Fault]:
    text = _decode_all(data, name)
    # The module's own limit is 131072 characters a field, less than a long transcript. It is global: put it back.
    limit = csv.field_size_limit(MAX_CSV_FIELD_CHARS)
    try:
        yield from _csv_rows(name, text)
    finally:
        csv.field_size_limit(limit)


def _csv_rows(name: str, text: str) -> Iterator[SourceRow | Fault]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    next_line = 1
    try:
        for cells in reader:
            where, next_line = f"{name}:{next_line}", reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = _checked_header(where, cells)
            elif len(cells) != len(header):
                yield Fault(
                    f"{len(cells)} fields where the header has {len(header)}: {shorten(','.join(cells))}",
                    where,
                    "put a field that holds a comma or a line break in double quotes",
                )
            else:
                yield SourceRow(where, _csv_fields(header, cells))
    except csv.Error as error:
        yield Fault(f"not valid CSV ({error})", f"{name}:{next_line}", "check the double quotes from this line on")


def _checked_header(where: str, cells: list[str]) -> list[str]:
    seen: set[str] = set()
    for cell in cells:
        if cell in seen:
            raise DataError(f"two columns are named {shorten(cell)}", where=where, hint="rename one of the two")
        seen.add(cell)
    return cells


def _csv_fields(header: list[str], cells: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(zip(header, cells, strict=True))
    label = fields.get("label")
    if label is not None:
        try:
            fields["label"] = float(label)
        except ValueError:
            if not label.strip():
                del fields["label"]
    return fields


def _read_txt(name: str, data: bytes) -> Iterator[SourceRow]:
    data = _without_mark(data, name)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    for number, line in enumerate(_split_lines(text), start=1):
        if line.strip():
            yield SourceRow(f"{name}:{number}", {"text": line.removesuffix("\r")})


def _split_lines(text: str) -> Iterator[str]:
    """One line after the other; not str.splitlines, since a form feed or U+2028 may stand within a text."""
    begin = 0
    while (end := text.find("\n", begin)) >= 0:
        yield text[begin:end]
        begin = end + 1
    yield text[begin:]


def _decode_all(data: bytes, name: str) -> str:
    data = _without_mark(data, name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        begin, end = data.rfind(b"\n", 0, error.start) + 1, data.find(b"\n", error.start)
        line = data[begin : end if end >= 0 else None]
        number = data.count(b"\n", 0, error.start) + 1
        raise DataError.of([_not_utf8(line, error).at(f"{name}:{number}")]) from None


def _without_mark(data: bytes, name: str) -> bytes:
    """The bytes without UTF-8's byte-order mark; UTF-16's is a fault."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("the file is UTF-16, not UTF-8", where=name, hint="save it again as UTF-8")
    return data.removeprefix(b"\xef\xbb\xbf")


def _not_utf8(line: bytes, error: UnicodeDecodeError) -> RowError:
    found = shorten(line.decode("utf-8", "backslashreplace").strip())
    return RowError(f"byte 0x{error.object[error.start]:02x} is not UTF-8: {found}", "save the file again as UTF-8")
