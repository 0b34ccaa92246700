"""Records and documents on disk: JSON Lines of records, JSON documents; written in one step, and read as hostile bytes.

Called by stages and by the run; knows nothing of recipes or rounds.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from align_cli.artifacts.files import write_text
from align_cli.artifacts.json_text import from_json, printable, shortened, to_json
from align_cli.artifacts.records import MalformedRecordError, Record
from align_cli.artifacts.strangers import refuse_stranger
from align_cli.errors import MAX_ROWS, DataError, Fault, error_of_rows

MAX_CHARS = 64 * 2**20
"""What no line and no document of ours comes near; more is refused before it fills the memory."""

OPEN_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Names of what the shell has opened for this process, as in `-i <(command)`: opening them waits for nobody."""

DAMAGE_HINT = "restore it from a copy, or make it again"

RecordType = TypeVar("RecordType", bound=Record)


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON document in one step."""
    write_text(path, json_document(value))


def json_document(value: Any) -> str:
    """An indented JSON document."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write JSON Lines in one step."""
    write_rows(path, (record.to_dict() for record in records))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines of plain objects in one step."""
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """A JSON document of ours.

    Raises:
        DataError: if it is missing or broken.
    """
    try:
        with _opened(path) as stream:
            size = os.fstat(stream.fileno()).st_size or MAX_CHARS  # of a pipe it is 0
            text = stream.read(min(size, MAX_CHARS) + 1)  # which much memory is set aside for
        if len(text) > MAX_CHARS:
            raise ValueError(f"it is longer than {MAX_CHARS // 2**20} MiB")
        return from_json(text)
    except FileNotFoundError:
        raise DataError("no such file", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), hint=DAMAGE_HINT) from None


def read_record(path: Path, kind: type[RecordType]) -> RecordType:
    """The record that is a JSON document of its own, as an evaluation is.

    Raises:
        DataError: if it is missing or broken, or no such record.
    """
    try:
        return _record_of(read_json(path), kind)
    except MalformedRecordError as error:
        raise DataError(f"{error}", where=str(path), hint=DAMAGE_HINT) from None


def read_records(path: Path, kind: type[RecordType]) -> list[RecordType]:
    """All records of a JSON Lines file.

    Raises:
        DataError: if the file is missing; or with every broken line by its number.
    """
    try:
        with _opened(path) as stream:
            return parse_records(stream, kind, str(path))
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), hint="check the name; paths start at this folder") from None
    except IsADirectoryError:
        raise DataError(
            "cannot be read: it is a folder", where=str(path), hint=f"give a file of {_noun(kind)}s"
        ) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path), hint=DAMAGE_HINT) from None


def parse_records(lines: Iterable[str], kind: type[RecordType], name: str) -> list[RecordType]:
    """Records from JSON Lines that come from a file or from a pipe.

    Args:
        lines: the lines, or a text stream of them; blank ones are passed over.
        kind: the record that each line holds.
        name: what to call the place in errors, such as a path or `<stdin>`.

    Raises:
        DataError: with every broken line by its number; if the first of them is something else that is known; or if the
            stream is not UTF-8.
    """
    records: list[RecordType] = []
    faults: list[Fault] = []
    hint = f"each line is one {_noun(kind)} in JSON"
    numbered = enumerate(_lines_of(lines, name), start=1)
    for number, line in numbered:
        if not line.strip():
            continue
        try:
            records.append(_parse_record(line, kind))
        except MalformedRecordError as error:
            if not records and not faults:
                is_document = line.strip() in ("{", "[")  # which goes on for lines
                text = "".join([line, *(more for _, more in numbered)]) if is_document else line
                refuse_stranger(text[:MAX_CHARS], _noun(kind), name)
            faults.append(Fault(f"{error}", f"{name}:{number}", hint))
        if len(faults) == MAX_ROWS:
            break
    if faults:
        raise error_of_rows(faults, name)
    return records


def _noun(kind: type[Record]) -> str:
    return kind.__name__.lower()


def _opened(path: Path) -> IO[str]:
    """Open what ends by itself: a file, or a stream that is open already; never wait for who might write to a pipe.

    Raises:
        OSError: if it cannot be opened, or is a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL in the name
        raise OSError(f"{error}") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or str(path).startswith(OPEN_STREAMS)):
        raise OSError("it is a pipe or a device, not a file")
    return path.open(encoding="utf-8")


def _lines_of(lines: Iterable[str], name: str) -> Iterator[str]:
    """The lines; of a stream, none longer than an artifact's can be."""
    readline = getattr(lines, "readline", None)
    try:
        for line in iter(lambda: readline(MAX_CHARS + 1), "") if readline else lines:
            if len(line) > MAX_CHARS:
                raise DataError(f"a line is longer than {MAX_CHARS // 2**20} MiB", where=name, hint=DAMAGE_HINT)
            yield line
    except UnicodeDecodeError as error:
        raise DataError(f"cannot be read: {error}", where=name, hint="records are UTF-8 text") from None


def _parse_record(line: str, kind: type[RecordType]) -> RecordType:
    try:
        row = from_json(line)
    except json.JSONDecodeError as error:
        found = printable(shortened(line.strip()))
        raise MalformedRecordError(f"not JSON at character {error.pos + 1} ({error.msg}): '{found}'") from None
    except ValueError as error:
        raise MalformedRecordError(f"not JSON: {error}") from None
    return _record_of(row, kind)


def _record_of(row: Any, kind: type[RecordType]) -> RecordType:
    if not isinstance(row, dict):
        raise MalformedRecordError(f"not a JSON object but {type(row).__name__}")
    try:
        return kind.from_dict(row)
    except MalformedRecordError as error:
        raise MalformedRecordError(printable(f"{error}")) from None
