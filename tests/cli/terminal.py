"""`align` on a pseudo-terminal, as somebody sits before it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from warm_children import MAIN

PATIENCE_SECONDS = 120
SECONDS_TO_REACT = 0.5
"""A signal that comes within microseconds of a prompt is seen by `input` with the next key alone."""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ROWS = 24
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """A terminal with `align` on it.

    Args:
        pid: the process.
        descriptor: the other end of its terminal.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        self._pid, self._descriptor = pid, descriptor
        self._read = b""
        self._seen = 0

    def until(self, text: str) -> str:
        """What was shown since the last call, up to and with a text, without escapes; waits for it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (place := self._shown().find(text, self._seen)) < 0:
            if time.monotonic() > deadline or not self._read_more(deadline):
                raise TimeoutError(f"{text!r} was not shown, but {self._shown()[self._seen :]!r}")
        start, self._seen = self._seen, place + len(text)
        return self._shown()[start : self._seen]

    def type(self, text: str, seconds_to_react: float = SECONDS_TO_REACT) -> None:
        """Type a text, as soon as somebody who has read what is shown could."""
        time.sleep(seconds_to_react)
        os.write(self._descriptor, text.encode())

    def resize(self, columns: int, rows: int = ROWS) -> None:
        """Drag its window to another size."""
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def kill(self, sent: signal.Signals) -> None:
        """End what runs on it by a signal."""
        os.kill(self._pid, sent)
        os.waitpid(self._pid, 0)
        self._pid = 0

    @property
    def echoes(self) -> bool:
        """Whether it shows what is typed, as a shell wants it."""
        return bool(termios.tcgetattr(self._descriptor)[3] & termios.ECHO)

    @property
    def obeyed(self) -> str:
        """All that it was told, escapes included."""
        return self._read.decode(errors="replace")

    @property
    def suspends(self) -> bool:
        """Whether Ctrl-Z stops what runs on it."""
        return termios.tcgetattr(self._descriptor)[6][termios.VSUSP] != b"\x00"

    def end(self) -> tuple[int, str]:
        """The exit code, and what was shown since the last call."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._read_more(deadline):
            pass
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return os.waitstatus_to_exitcode(status), self._shown()[self._seen :]

    def close(self) -> None:
        """Nothing is left running."""
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
        os.close(self._descriptor)

    def _shown(self) -> str:
        return ESCAPES.sub("", self._read.decode(errors="replace")).replace("\r", "")

    def _read_more(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], max(deadline - time.monotonic(), 0))
        try:
            read = os.read(self._descriptor, 65536) if ready else b""
        except OSError:  # its process has ended
            return False
        self._read += read
        return bool(read)


@contextmanager
def terminal(*arguments: str | Path, cwd: Path, columns: int = 80) -> Iterator[Terminal]:
    """`align ARGUMENTS` on a terminal of this width."""
    with program_on_terminal(["-c", MAIN, *map(str, arguments)], cwd=cwd, columns=columns) as shown:
        yield shown


@contextmanager
def program_on_terminal(
    arguments: Sequence[str], *, cwd: Path, columns: int = 80, rows: int = ROWS, **variables: str
) -> Iterator[Terminal]:
    """`python ARGUMENTS` on a terminal of this size, with these environment variables besides."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        # Not what stands in C's environment alone, where readline puts the width of pytest's own terminal.
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        os.execve(sys.executable, [sys.executable, *arguments], {**environment, "TERM": "xterm", **variables})
    shown = Terminal(pid, descriptor)
    shown.resize(columns, rows)
    try:
        yield shown
    finally:
        shown.close()
