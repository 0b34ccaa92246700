"""Children of this process: what they must not keep open, and how they end.

A lock, and the pipe that a reader waits at the other end of, live as long as the last process that has them open. A
child that user code forks has all that its parent had, whatever is marked to be closed at `exec`, and may outlive it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

AGAIN = "run the same command again: it goes on from what is there"
OUT_OF_MEMORY = "SIGKILL without a word is often the kernel's, when the machine is out of memory"
"""What to do where a child has died, and what may have killed it."""

PR_SET_PDEATHSIG = 1

_descriptors: set[int] = set()


def keep_from_children(descriptor: int) -> None:
    """From now on a child that is forked has nothing behind this descriptor."""
    _descriptors.add(descriptor)


def is_about_to_close(descriptor: int) -> None:
    """The descriptor's number may soon be another file's."""
    _descriptors.discard(descriptor)


def ends_with(parent: int) -> bool:
    """Have this process, a child, be killed when its parent ends, whatever ends that; False if it is gone already."""
    import ctypes

    with suppress(AttributeError, OSError):  # there is such a call on Linux alone
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def end_within(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for the end of a child, and kill it where that does not come within so many seconds."""
    import subprocess

    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def killed_by(code: int) -> str:
    """The signal that has ended a child, by its exit code, which is below 0."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _let_go() -> None:
    # The number stays taken: whoever holds it in the child closes it once more.
    if _descriptors:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in _descriptors:
            os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)
        _descriptors.clear()


if hasattr(os, "register_at_fork"):  # where processes are forked at all
    os.register_at_fork(after_in_child=_let_go)
