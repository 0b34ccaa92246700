"""Commands that are held in the midst of their work, so that a test can look, or do something to their run."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from forked import Finished, Stop, run_align

PATIENCE_SECONDS = 120


class Held(NamedTuple):
    """A command that is held.

    Args:
        pid: its process.
        result: what it ends in, once it is let go.
    """

    pid: int
    result: Future[Finished]


@contextmanager
def held(*arguments: str, cwd: Path, at: Stop) -> Iterator[Held]:
    """`align ARGUMENTS`, held at a moment while the block lasts; it goes on when the block ends.

    Args:
        arguments: of the command line; the recipe's `output_dir` is `run`.
        cwd: the working directory.
        at: where it is held.
    """
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(run_align, *arguments, cwd=cwd, stop=at._replace(signal=signal.SIGSTOP))
        pid = held_process(cwd / "run" / ".lock", result)
        try:
            yield Held(pid, result)
        finally:
            with suppress(ProcessLookupError):  # the test may have ended it
                os.kill(pid, signal.SIGCONT)
            result.exception()


def held_process(lock: Path, result: Future[Finished]) -> int:
    """The process that holds a run, as soon as it stands still."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and not result.done():
        pid = holder(lock)
        if pid is not None and is_stopped(pid):
            return pid
        time.sleep(0.02)
    raise TimeoutError(f"the command was not held: {result.result() if result.done() else 'it is at work'}")


def holder(lock: Path) -> int | None:
    """The process that holds a run, by the run's lock; None where there is none yet."""
    found = re.search(r"pid (\d+)", lock.read_text(encoding="utf-8")) if lock.is_file() else None
    return int(found[1]) if found else None


def is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return False
