"""Files that are whole or not there: write to a temporary name, fsync, rename.

JSON Lines of records, JSON documents, folders, and their checksums. Called by stages and by the run; knows nothing of
recipes or rounds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from align_cli.artifacts.records import MalformedRecordError, Record
from align_cli.errors import AlignError, DataError, Fault

TEMPORARY_SUFFIX = ".partial"
"""What a file is called while it is being written; a leftover of a killed process is never read."""

REPLACED_SUFFIX = ".replaced"
"""What a folder is called while a new one takes its place."""

MAX_FAULTS_SHOWN = 20

MAX_CHARS = 64 * 2**20
MAX_DEPTH = 100
"""What no line and no document of ours comes near; more is refused before it fills the memory or the stack."""

OPEN_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Names of what the shell has opened for this process, as in `-i <(command)`: opening them waits for nobody."""

DAMAGE_HINT = "restore it from a copy, or make it again"

SURROGATES = re.compile("[\ud800-\udfff]")
AGAIN = "then run the same command again"
DISK_FAULTS = {
    errno.ENOSPC: ("the disk is full", f"free some space, {AGAIN}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some space or have it raised, {AGAIN}"),
    errno.EFBIG: ("a file would be larger than files may be here", f"raise the limit (ulimit -f), {AGAIN}"),
    errno.EROFS: ("the file system is read-only", f"make it writable or choose another place, {AGAIN}"),
    errno.EIO: ("the disk reports an input/output error", f"look at the disk or choose another one, {AGAIN}"),
    errno.EACCES: ("permission denied", f"give yourself the right to write there or choose another place, {AGAIN}"),
    errno.EPERM: ("operation not permitted", f"make the place writable or choose another one, {AGAIN}"),
}
"""What is said of a disk that does not do what it is told; none of these is a fault of the program."""

OTHER_REMEDY = f"look at what stands in this place, {AGAIN}"
LIBRARY_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust, such as safetensors, pass an error of the system on."""

RecordType = TypeVar("RecordType", bound=Record)


class WriteError(OSError):
    """A file or a folder that could not be written; `filename` says which."""


def disk_error(error: Exception, place: str = "") -> AlignError | None:
    """The user's side of an error of the disk; None where it may as well be a bug, and keeps its traceback.

    Args:
        error: any error; some libraries have one of their own for what the system said.
        place: where it happened, should the error not know.
    """
    if not isinstance(error, OSError):
        number = _library_errno(error)
        # What libraries write into our folders is named by `writing`; the rest goes into temporary ones.
        return disk_error(WriteError(number, os.strerror(number), tempfile.gettempdir())) if number else None
    place = str(error.filename or place)
    if str(error.strerror).startswith("No usable temporary directory"):
        return AlignError("there is no folder for temporary files", hint=f"free some space or set TMPDIR, {AGAIN}")
    is_ours = isinstance(error, WriteError) or error.errno not in (errno.EACCES, errno.EPERM) or place
    if error.errno in DISK_FAULTS and is_ours:
        what, hint = DISK_FAULTS[error.errno]
        return AlignError(f"cannot be written: {what}" if place else what, where=place, hint=hint)
    if isinstance(error, WriteError):
        return AlignError(f"cannot be written: {error.strerror}", where=place, hint=OTHER_REMEDY)
    return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the place in whatever the system says against writing there.

    Raises:
        WriteError: for an error of the system, also one that a library passes on in words of its own.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(error.errno, error.strerror or f"{error}", str(path)) from error
    except Exception as error:
        number = _library_errno(error)
        if number is None:
            raise
        raise WriteError(number, os.strerror(number), str(path)) from error


def _library_errno(error: Exception) -> int | None:
    found = LIBRARY_OS_ERROR.search(str(error))
    return int(found[1]) if found else None


def to_json(value: Any) -> str:
    """One line of JSON: no NaN, text as it is; half a surrogate pair, which no file can hold, is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    if SURROGATES.search(text):
        text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(", ", ": "))
    return text


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: afterwards it holds all of `text`, or what it held before."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError:
            _forget(temporary)  # on a full disk what is half written takes the room of what is to come
            raise
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
        with _opened(path) as stream:
            text = stream.read(MAX_CHARS + 1)
        if len(text) > MAX_CHARS:
            raise ValueError(f"it is longer than {MAX_CHARS // 2**20} MiB")
        return _decode(text)
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
        DataError: if the file is missing; or with every broken line (at most twenty are shown), by its number.
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
        DataError: with every broken line (at most twenty are shown), by its number; or if the stream is not UTF-8.
    """
    records: list[RecordType] = []
    faults: list[Fault] = []
    num_faults = 0
    hint = f"each line is one {_noun(kind)} in JSON"
    for number, line in enumerate(_lines_of(lines, name), start=1):
        if not line.strip():
            continue
        try:
            records.append(_parse_record(line, kind))
        except MalformedRecordError as error:
            num_faults += 1
            if len(faults) < MAX_FAULTS_SHOWN:
                faults.append(Fault(f"{error}", f"{name}:{number}", hint))
    if num_faults > len(faults):
        faults.append(Fault(f"and {num_faults - len(faults)} more broken lines", name))
    if faults:
        raise DataError.of(faults)
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
        row = _decode(line)
    except json.JSONDecodeError as error:
        found = _printable(_short(line.strip()))
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
        raise MalformedRecordError(_printable(f"{error}")) from None


def _decode(text: str) -> Any:
    """A JSON value whose numbers are finite and fit 64 bits, and that is not nested too deeply to be written again.

    Raises:
        ValueError: for anything else.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = (inner for inner in level if isinstance(inner, dict | list))
        level = [item for inner in nested for item in (inner.values() if isinstance(inner, dict) else inner)]
    return bool(level)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{_short(text)} is beyond all numbers")
    return number


def _whole(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else 2**63
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{_short(digits)} is a whole number of more than 64 bits")
    return number


def _short(text: str, longest: int = 40) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _printable(text: str) -> str:
    """A message that names keys as the file spells them, safe for a terminal and not endless."""
    characters = (char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return _short("".join(characters), 200)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends without an error.

    Whoever looks, also after a kill, finds under that name the whole old folder, the whole new one, or none.
    """
    temporary, old = path.with_name(path.name + TEMPORARY_SUFFIX), path.with_name(path.name + REPLACED_SUFFIX)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                # Some libraries make theirs for the owner alone. What has another name too, another run holds as well.
                if file.is_file() and file.stat().st_nlink == 1:
                    file.chmod(0o666 & ~_umask())
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


def _forget(path: Path) -> None:
    """Remove a file, if that can be done."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


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
