"""Keeps one server that align has started, and ends it with all that it started: a program of its own.

    python -P keeper.py SECONDS COMMAND...

Its standard input is a pipe whose other end align holds and never writes to. The pipe ends when align lets go of it,
and when align dies, whatever it dies of. Then the server is asked to end (SIGTERM), and what is left of it after so
many seconds is killed, its children's children too: on Linux they become this process's own when their parents are
gone. Where the server ends by itself, its children go likewise, and this process ends as it did.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36
"""Of prctl(2)."""
SECONDS_BETWEEN_LOOKS = 0.2


def main() -> int:
    """Start the command, and stay until it or align is gone."""
    grace_seconds, command = float(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(_ended(server, seen, grace_seconds)))
    _prctl(SET_CHILD_SUBREAPER, 1)
    seen: set[psutil.Process] = set()
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent)
    while server.poll() is None:
        seen |= _below()
        if select.select([sys.stdin], [], [], SECONDS_BETWEEN_LOOKS)[0]:
            break
    return _ended(server, seen, grace_seconds)


def _die_with_parent() -> None:
    """Should this process be killed itself, the server is too."""
    _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # there is none but on Linux
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _below() -> set[psutil.Process]:
    """Every process that comes from this one."""
    with suppress(psutil.Error):
        return set(psutil.Process().children(recursive=True))
    return set()


def _ended(server: subprocess.Popen[bytes], seen: Iterable[psutil.Process], grace_seconds: float) -> int:
    """End the server and all that came from it; its exit status."""
    if server.poll() is None:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(grace_seconds)
    left = set(seen) | _below()
    until = time.monotonic() + grace_seconds
    while left and time.monotonic() < until:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(list(left), timeout=SECONDS_BETWEEN_LOOKS)
        left = {process for process in left | _below() if _runs(process)}
    status = server.poll()
    return 1 if status is None else 128 - status if status < 0 else status


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


if __name__ == "__main__":
    sys.exit(main())
