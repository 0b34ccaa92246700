"""Lines of bytes of which memory holds where each begins: few of them in memory, many in a file that nobody sees.

A file, once kept, is believed only where it is, to the last byte, what was written: see `Lines.opened`.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Self

from align_cli.artifacts import remembered
from align_cli.artifacts.files import open_own
from align_cli.artifacts.scratch import ScratchFolder

IN_MEMORY_BYTES = 1 << 22
BLOCK_BYTES = 1 << 20


class Lines:
    """Lines that were written once, each found by its number.

    Args:
        lines: without line breaks.
    """

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self._stream: IO[bytes] = io.BytesIO()
        self._ends = array("Q", [0])
        place, is_in_memory = 0, True
        for line in lines:
            place += self._stream.write(line + b"\n")
            self._ends.append(place)
            if is_in_memory and place > IN_MEMORY_BYTES:
                self._stream, is_in_memory = _on_disk(self._stream), False

    @classmethod
    def opened(cls, path: Path, digest: str) -> Self | None:
        """The lines of a file that was kept; None where there is none, or where it is not what was written.

        Args:
            path: the file.
            digest: what `keep` has said of it.
        """
        import numpy as np

        lines = cls()
        try:
            lines._stream = os.fdopen(open_own(path, os.O_RDONLY), "rb")
            found, place = hashlib.sha256(), 0
            while block := lines._stream.read(BLOCK_BYTES):
                found.update(block)
                breaks = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + (place + 1)
                lines._ends.frombytes(breaks.astype(np.uint64).tobytes())
                place += len(block)
        except OSError:
            return None
        return lines if found.hexdigest() == digest else None

    def keep(self, path: Path) -> str:
        """Write them to a file in one step, and go on with them from there; the digest of all that it holds.

        Raises:
            OSError: if it cannot be written.
        """
        digest = hashlib.sha256()
        with ScratchFolder(path.parent) as scratch:
            written = scratch / path.name
            with written.open("wb") as stream:
                self._stream.seek(0)
                while block := self._stream.read(BLOCK_BYTES):
                    digest.update(block)
                    stream.write(block)
                stream.flush()
                os.fsync(stream.fileno())
            written.replace(path)
        before, self._stream = self._stream, os.fdopen(open_own(path, os.O_RDONLY), "rb")
        before.close()
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        begin, end = self._ends[number], self._ends[number + 1] - 1
        self._stream.seek(begin)
        return self._stream.read(end - begin)


def _on_disk(written: IO[bytes]) -> IO[bytes]:
    """What was written so far in a file without a name, where there is room: the temporary folder may be memory."""
    try:
        room: Path | None = remembered.folder()
    except OSError:
        room = None
    stream = tempfile.TemporaryFile(dir=room)  # noqa: SIM115 - goes with the lines
    written.seek(0)
    shutil.copyfileobj(written, stream)
    return stream
