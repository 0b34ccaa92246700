"""What a process may find in the place of its standard streams; each is called in the process, before its command."""

from __future__ import annotations

import os
import sys


def stderr_is_closed() -> None:
    """As `2>&-` leaves it."""
    os.close(2)
    sys.stderr = None  # type: ignore[assignment]


def stderr_has_no_reader() -> None:
    """As `2> >(head -1)` leaves it after a line."""
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 2)
    os.close(write)


def stderr_is_full() -> None:
    """As `2>/dev/full` leaves it."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 2)
    os.close(full)


def all_are_closed() -> None:
    """As `<&- >&- 2>&-` leaves them."""
    stderr_is_closed()
    os.close(1)
    os.close(0)
    sys.stdin = sys.stdout = None  # type: ignore[assignment]
