"""Files that are whole or not there: write to a temporary name, fsync, rename.

JSON Lines of records, JSON documents, folders, and their checksums. Called by stages and by the run; knows nothing of
recipes or rounds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from align_cli.artifacts.records import MalformedRecordError, Record
from align_cli.errors import DataError, Fault

TEMPORARY_SUFFIX = ".partial"
"""What a file is called while it is being written; a leftover of a killed process is never read."""

REPLACED_SUFFIX = ".replaced"
"""What a folder is called while a new one takes its place."""

MAX_FAULTS_SHOWN = 20

RecordType = TypeVar("RecordType", bound=Record)


def to_json(value: Any) -> str:
    """One line of JSON: no NaN, text as it is; half a surrogate pair, which no file can hold, is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    if any("\ud800" <= character <= "\udfff" for character in text):
        text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(", ", ": "))
    return text


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: afterwards it holds all of `text`, or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    _sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON document in one step."""
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write JSON Lines in one step."""
    write_text(path, "".join(to_json(record.to_dict()) + "\n" for record in records))


def print_records(records: Iterable[Record], stream: IO[str]) -> None:
    """Write JSON Lines to a stream that is open already, such as standard output."""
    for record in records:
        stream.write(to_json(record.to_dict()) + "\n")
    stream.flush()


def read_json(path: Path) -> Any:
    """A JSON document of ours.

    Raises:
        DataError: if it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from None


def read_records(path: Path, kind: type[RecordType]) -> list[RecordType]:
    """All records of a JSON Lines file.

    Raises:
        DataError: if the file is missing; or with every broken line (at most twenty are shown), by its number.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            return parse_records(stream, kind, str(path))
    except FileNotFoundError:
        raise DataError("no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from None


def parse_records(lines: Iterable[str], kind: type[RecordType], name: str) -> list[RecordType]:
    """Records from JSON Lines that come from a file or from a pipe.

    Args:
        lines: the lines; blank ones are passed over.
        kind: the record that each line holds.
        name: what to call the place in errors, such as a path or `<stdin>`.

    Raises:
        DataError: with every broken line (at most twenty are shown), by its number.
    """
    records: list[RecordType] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(_parse_record(line, kind))
        except MalformedRecordError as error:
            faults.append(Fault(f"{error}", f"{name}:{number}", f"each line is one {kind.__name__.lower()} in JSON"))
    if faults:
        shown = faults[:MAX_FAULTS_SHOWN]
        if len(faults) > len(shown):
            shown.append(Fault(f"and {len(faults) - len(shown)} more broken lines", name))
        raise DataError.of(shown)
    return records


def _parse_record(line: str, kind: type[RecordType]) -> RecordType:
    try:
        row = json.loads(line, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise MalformedRecordError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise MalformedRecordError(f"not a JSON object but {type(row).__name__}")
    return kind.from_dict(row)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is beyond all numbers")
    return number


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends without an error.

    Whoever looks, also after a kill, finds under that name the whole old folder, the whole new one, or none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = path.with_name(path.name + TEMPORARY_SUFFIX), path.with_name(path.name + REPLACED_SUFFIX)
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                file.chmod(0o666 & ~_umask())  # some libraries make theirs for the owner alone
            _sync(file)
        _sync(temporary)
        _replace_folder(path, temporary, old)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(path: Path, new: Path, old: Path) -> None:
    if path.exists():
        path.replace(old)
    try:
        new.replace(path)
    except OSError:
        if old.exists():
            old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; of a folder, over the names and checksums of its files."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{checksum(file)}\n".encode())
    else:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Make a file or a folder's list of names durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
