"""How much a file may hold: what stops a compressed file that unpacks without end, and a line that never ends.

The limits are far above what data sets need. A plain file is its own limit, except for a single line and for formats
that have to be read as a whole; what is unpacked may be EXPANSION times the file's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedIOBase

from align_cli.errors import DataError

MIB = 2**20
MAX_LINE_BYTES = 64 * MIB
MAX_WHOLE_BYTES = 1024 * MIB
MAX_BLANK_BYTES = MIB
EXPANSION = 100
ALWAYS_UNPACKED_BYTES = 16 * MIB


def unpacked_limit(num_packed_bytes: int) -> int:
    """How many bytes a compressed file of this size may unpack to."""
    return max(ALWAYS_UNPACKED_BYTES, EXPANSION * num_packed_bytes)


def bounded_lines(handle: BufferedIOBase, name: str, limit: int | None) -> Iterator[bytes]:
    """The lines of a file.

    Args:
        handle: the file, unpacked where it is compressed.
        name: what the user called it.
        limit: how many bytes it may unpack to; None for a file that is not compressed.

    Raises:
        DataError: for a line longer than MAX_LINE_BYTES, for blank lines without end, or for more than the limit.
    """
    num_bytes = num_blank_bytes = 0
    while line := handle.readline(MAX_LINE_BYTES + 1):
        num_bytes += len(line)
        num_blank_bytes = num_blank_bytes + len(line) if line.isspace() else 0
        if num_blank_bytes > MAX_BLANK_BYTES:
            raise _blank(name)
        check_unpacked(num_bytes, limit, name)
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"a line is longer than {MAX_LINE_BYTES // MIB} MiB",
                where=name,
                hint="every line must hold one JSON object; is a line break missing?",
            )
        yield line


def bounded_bytes(handle: BufferedIOBase, name: str, limit: int | None) -> bytes:
    """All bytes of a file that has to be read as a whole; arguments as of `bounded_lines`.

    Raises:
        DataError: for more than MAX_WHOLE_BYTES, for blank lines without end, or for more than the limit.
    """
    blocks, num_bytes = [], 0
    while block := handle.read(MAX_BLANK_BYTES):
        if len(block) == MAX_BLANK_BYTES and block.isspace():
            raise _blank(name)
        blocks.append(block)
        num_bytes += len(block)
        check_unpacked(num_bytes, limit, name)
        if num_bytes > MAX_WHOLE_BYTES:
            raise DataError(
                f"the file holds more than {MAX_WHOLE_BYTES // MIB} MiB, and its format is read as a whole",
                where=name,
                hint="write it as .jsonl or .parquet, which are read row by row",
            )
    return b"".join(blocks)


def check_unpacked(num_bytes: int, limit: int | None, name: str) -> None:
    """Refuse a compressed file that unpacks to more than it may.

    Raises:
        DataError: if it does.
    """
    if limit is not None and num_bytes > limit:
        raise DataError(
            f"the file unpacks to more than {limit // MIB} MiB, far more than its size lets expect",
            where=name,
            hint="if it is sound, write it as a .jsonl that is not compressed",
        )


def _blank(name: str) -> DataError:
    return DataError(
        f"the file holds {MAX_BLANK_BYTES // MIB} MiB of blank lines one after the other",
        where=name,
        hint="write the file again without them",
    )
