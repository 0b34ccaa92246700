"""The process that a command runs in: what ends it, and what its children inherit of that.

Code that is not align's runs in this process and forks children: labelers, models that bring code, libraries.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from align_cli.cli.output import Terminated
from align_cli.models.memory import importing_libraries

P = ParamSpec("P")
R = TypeVar("R")


def end_at_sigterm() -> None:
    """Let SIGTERM end the command as Ctrl-C does: what is durable stays, and it says how to go on."""
    signal.signal(signal.SIGTERM, _terminated)


@contextmanager
def sparing_garbage() -> Iterator[None]:
    """While it lasts nobody looks for garbage, nor when the process ends: a quarter of the time that help takes."""
    was_enabled = gc.isenabled()
    gc.disable()
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def at_work(command: Callable[P, R]) -> Callable[P, R]:
    """A command that is long at work, or runs code of others: what it leaves is looked for, and ends as it wants to."""

    @wraps(command)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        gc.enable()
        importing_libraries()
        atexit.unregister(gc.freeze)
        return command(*args, **kwargs)

    return inner


def _terminated(*_: object) -> None:
    raise Terminated


_before_fork = threading.local()


def _hold_back() -> None:
    _before_fork.held_back = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _before_fork.held_back)


def _end_as_others_do() -> None:
    """A child dies of SIGTERM: a pool of processes ends its workers with it, and waits until they are dead."""
    if signal.getsignal(signal.SIGTERM) is _terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_through()


if hasattr(os, "register_at_fork"):  # where processes are forked at all
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_end_as_others_do)
