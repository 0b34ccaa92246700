"""What is said of a disk that does not do what it is told: none of these errors is a fault of the program.

`writing` names the place in an error; whoever shows errors asks `disk_error` for words.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align_cli.errors import DiskError

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

OTHER_REMEDY = f"look at what stands in this place, {AGAIN}"
LIBRARY_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust, such as safetensors, pass an error of the system on."""


class WriteError(OSError):
    """A file or a folder that could not be written; `filename` says which."""


def disk_error(error: Exception, place: str = "") -> DiskError | None:
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
        return DiskError("there is no folder for temporary files", hint=f"free some space or set TMPDIR, {AGAIN}")
    is_ours = error.errno not in (errno.EACCES, errno.EPERM) or place
    if error.errno in DISK_FAULTS and is_ours:
        what, hint = DISK_FAULTS[error.errno]
        return DiskError(f"cannot be written: {what}" if place else what, where=place, hint=hint)
    if isinstance(error, WriteError):
        return DiskError(f"cannot be written: {error.strerror}", where=place, hint=OTHER_REMEDY)
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
