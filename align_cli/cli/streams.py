"""The standard streams: safe to write to, whoever holds their other ends, and records that come in through them.

What is said, on standard error, never stops the work: where nobody takes it, it is lost. What is asked for, on standard
output, is not lost in silence: an error is raised, and the command ends with another exit code than 0. Code that is not
align's prints too, from C and from processes of its own; none of that reaches what was asked for.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from align_cli.artifacts.children import keep_from_children
from align_cli.artifacts.disk import WriteError
from align_cli.cli.shown import LOOK_ALIKES
from align_cli.errors import DataError

if TYPE_CHECKING:
    from align_cli.artifacts.records import Record

STDOUT, STDERR = 1, 2

RecordType = TypeVar("RecordType", bound="Record")


class OutputClosedError(Exception):
    """Whoever read standard output has closed it, as `head` does."""


def prepare_streams() -> None:
    """Make the standard streams safe to use.

    A descriptor that is closed is taken, so that no file of ours gets its number, and with it what others say. What is
    asked for goes through a descriptor of its own: what anybody writes to descriptor 1 goes to standard error.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(_nowhere(os.O_RDONLY), encoding="utf-8")
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8")  # records are UTF-8, whatever the terminal is
    # Where standard output was closed there is nothing but reading, so that writing to it fails.
    sys.stdout = _safe(sys.stdout, _Data, os.O_RDONLY)
    sys.stderr = _safe(sys.stderr, _Talk, os.O_WRONLY)
    if sys.stdout.fileno() == STDOUT:
        descriptor = os.dup(STDOUT)
        keep_from_children(descriptor)
        sys.stdout = _text(_DataText, _Data, descriptor, sys.stdout.encoding, bool(sys.stdout.line_buffering))
        os.dup2(STDERR, STDOUT)


def close_data() -> None:
    """What was asked for has gone out when this returns; what is printed from now on, as at exit, is talk.

    Raises:
        OutputClosedError: if its reader has gone.
        WriteError: if it cannot be written.
    """
    try:
        write_out([])
    finally:
        if isinstance(sys.stdout, _DataText):
            sys.stdout.is_over = True


@contextmanager
def printing_as_talk() -> Iterator[None]:
    """While it lasts, what libraries print is talk: for work after which the answer comes."""
    with redirect_stdout(sys.stderr):
        yield


def write_out(texts: Iterable[str]) -> None:
    """Write to standard output; when this returns, it has gone out.

    Raises:
        OutputClosedError: if its reader has gone.
        WriteError: if it cannot be written.
    """
    for text in texts:
        sys.stdout.write(text)
    sys.stdout.flush()


def read_line(prompt: str) -> str | None:
    """A line that somebody types, edited as in a shell where the system has readline; None at the end of the input.

    The prompt is talk: descriptor 1 is what `prepare_streams` has put there.
    """
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` edits lines once it is there
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    with os.fdopen(STDOUT, "w", closefd=False) as talk, redirect_stdout(talk), suppress(EOFError):
        return input(prompt)
    return None


def read_lines() -> Iterator[str]:
    """The lines of standard input, without their ends; blank ones are passed over.

    Raises:
        DataError: if it is not UTF-8.
    """
    try:
        for line in sys.stdin:
            if line.strip():
                yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"cannot be read: {error}", where="<stdin>", hint="prompts are UTF-8 text") from None


def read_stream(place: str, kind: type[RecordType]) -> list[RecordType]:
    """All records, read to the end before anything else happens: in a pipe, what writes them has then finished.

    Raises:
        DataError: if a line is broken, or if there are no records.
    """
    from align_cli.artifacts.store import parse_records, read_records

    name = "<stdin>" if place == "-" else place
    records = parse_records(sys.stdin, kind, name) if place == "-" else read_records(Path(place), kind)
    if not records:
        noun = f"{kind.__name__.lower()}s"
        raise DataError(f"there are no {noun}", where=name, hint="look at what the command before it in the pipe says")
    return records


class _Stream(io.FileIO):
    """A file that waits until the system takes something; once it refuses, all that follows goes nowhere."""

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
            return written
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # also for libraries and children that write there
            os.close(nowhere)
            raise


class _Data(_Stream):
    """Standard output: what cannot be written is told."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise OutputClosedError from None
        except OSError as error:
            why = "it is closed" if error.errno == errno.EBADF else error.strerror
            raise WriteError(error.errno, why, "standard output") from None


class _Talk(_Stream):
    """Standard error: what cannot be written is lost."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _DataText(io.TextIOWrapper):
    """Standard output as a command has it: what threads print, and what is printed at exit, is talk."""

    is_over = False

    def write(self, text: str) -> int:
        if self.is_over or threading.current_thread() is not threading.main_thread():
            return sys.stderr.write(text)
        return super().write(text)


def _safe(stream: TextIO | None, kind: type[_Stream], flags: int) -> TextIO:
    """A stream of this kind in the place of one of the interpreter's, or of one that was closed when it began."""
    if stream is None:
        descriptor, encoding, in_lines = _nowhere(flags), "utf-8", True
    else:
        raw = getattr(stream.buffer, "raw", stream.buffer)
        if not isinstance(raw, io.FileIO):  # a console of Windows, which is more than a file
            return stream
        in_lines = bool(stream.line_buffering) or bool(getattr(stream, "write_through", False))  # PYTHONUNBUFFERED
        descriptor, encoding = raw.fileno(), stream.encoding
    return _text(io.TextIOWrapper, kind, descriptor, encoding, in_lines)


def _text(
    text: type[io.TextIOWrapper], kind: type[_Stream], descriptor: int, encoding: str, in_lines: bool
) -> io.TextIOWrapper:
    data = io.BufferedWriter(kind(descriptor, "w", closefd=False))
    return text(data, encoding=encoding, errors=LOOK_ALIKES, line_buffering=in_lines)


def _nowhere(flags: int) -> int:
    """A descriptor that leads nowhere; the lowest number that is free."""
    descriptor = os.open(os.devnull, flags)
    os.set_inheritable(descriptor, True)
    return descriptor
