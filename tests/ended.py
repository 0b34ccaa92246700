"""Whether processes have ended, for tests of what outlives whom."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil


def all_gone(pids: Iterable[int], seconds: float = 10.0) -> bool:
    """Whether all of these processes end within so many seconds; one that nobody waited for has."""
    pids, until = list(pids), time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(_is_alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
