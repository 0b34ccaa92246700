"""The process that a command runs in: what ends it, what its children inherit, and where its data goes.

Code that is not align's runs in this process: labelers, models that bring code, libraries. It forks children, and it
prints, from C and from processes of its own too; neither must reach what belongs to the command.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from align_cli.artifacts.children import keep_from_children
from align_cli.cli.output import Terminated

STDOUT, STDERR = 1, 2


def keep_data_apart() -> None:
    """Let data go through a descriptor of its own, and what anybody writes to descriptor 1 to standard error.

    Nothing is changed where standard output is closed, or is no descriptor 1.
    """
    stdout = sys.stdout
    try:
        if stdout.fileno() != STDOUT:
            return
        stdout.flush()
        descriptor = os.dup(STDOUT)
    except (AttributeError, OSError, ValueError):
        return
    keep_from_children(descriptor)
    buffering = 0 if isinstance(stdout.buffer, io.RawIOBase) else -1
    buffer = open(descriptor, "wb", buffering, closefd=False)  # noqa: SIM115 - it stays open
    sys.stdout = io.TextIOWrapper(buffer, **_manner(stdout))
    try:
        os.dup2(STDERR, STDOUT)
    except OSError:  # standard error is closed
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), STDOUT)


@contextmanager
def own_process() -> Iterator[None]:
    """While a command runs: SIGTERM ends it as Ctrl-C does, and `sys.stdout` is for its own data alone."""
    signal.signal(signal.SIGTERM, _terminated)
    data = None
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is not sys.__stdout__:
        manner = _manner(sys.stdout)
        data = sys.stdout = _DataStream(sys.stdout.detach(), **manner)
    try:
        yield
    finally:
        if data is not None:
            data.is_over = True


class _DataStream(io.TextIOWrapper):
    """Standard output as a command has it. What threads print, and what is printed at exit, is talk."""

    is_over = False

    def write(self, text: str) -> int:
        if self.is_over or threading.current_thread() is not threading.main_thread():
            return sys.stderr.write(text) if sys.stderr is not None else len(text)
        return super().write(text)


def _manner(stream: TextIO) -> dict[str, Any]:
    """How a stream writes, as arguments of another one."""
    names = ("encoding", "errors", "line_buffering", "write_through")
    return {name: getattr(stream, name) for name in names}


def _terminated(*_: object) -> None:
    """What is durable stays, and the command says how to go on."""
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
