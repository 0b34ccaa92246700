"""Work in progress, line by line: what a stage has done so far, so that a killed one goes on after its last batch.

A journal is no artifact: nobody but the stage that wrote it reads it, and it goes when the stage is finished. Each line
carries a CRC-32. A line that a kill left torn, or that was damaged, is dropped with all that follow: that work is done
again. The first line says what the work is for; a journal for something else is begun anew, as is one that is a link
or no file at all.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from align_cli.artifacts.files import open_own, remove
from align_cli.artifacts.json_text import to_json


class Journal:
    """Rows that survive a kill, in the order in which they were written.

    Args:
        path: where they are kept; None keeps them in memory alone, for work that nobody resumes.
        key: stands for everything that the rows depend on.
    """

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        self.rows: list[dict[str, Any]] = []
        self._stream: IO[bytes] | None = None
        if path is not None:
            self._stream = self._opened(path, {"for": key})

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; when this returns they are durable."""
        added = [dict(row) for row in rows]
        self.rows += added
        if self._stream is not None:
            self._stream.write(b"".join(line_of(row) for row in added))
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def clear(self) -> None:
        """Begin anew: what was written is of no use."""
        self.rows = []
        if self._stream is not None:
            self._stream.seek(0)
            header = self._stream.readline()
            self._stream.truncate(len(header))
            self._stream.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def _opened(self, path: Path, header: dict[str, Any]) -> IO[bytes]:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or not path.is_file():
            remove(path)
        stream: IO[bytes] = os.fdopen(open_own(path, os.O_RDWR | os.O_CREAT), "r+b")
        kept, rows = _read(stream)
        is_ours = rows[:1] == [header]
        stream.seek(stream.truncate(kept if is_ours else 0))
        if is_ours:
            self.rows = rows[1:]
        else:
            stream.write(line_of(header))
        return stream


def line_of(row: Mapping[str, Any]) -> bytes:
    """A row as a line of its own, with a CRC-32 before it."""
    text = to_json(dict(row)).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read(stream: IO[bytes]) -> tuple[int, list[dict[str, Any]]]:
    """The whole and undamaged lines at a file's beginning: how many bytes they take, and their rows."""
    kept, rows = 0, []
    for line in stream:
        row = row_of(line)
        if row is None:
            break
        rows.append(row)
        kept += len(line)
    return kept, rows


def row_of(line: bytes) -> dict[str, Any] | None:
    """What a whole and undamaged line holds; None for any other line."""
    found, _, text = line[:-1].partition(b" ")
    if not line.endswith(b"\n") or found != b"%08x" % zlib.crc32(text):
        return None
    try:
        row = json.loads(text)
    except ValueError:  # nothing at all has a CRC-32 too
        return None
    return row if isinstance(row, dict) else None
