"""Single keys from the terminal, without Enter, by the standard library alone.

A key is what it writes, or its name: `up`, `down`, `left`, `right`, `page up`, `page down`, `home`, `end`, `enter`,
`backspace`, `tab`, `ctrl-d`. Ctrl-C interrupts as ever. Ctrl-Z does nothing: a shell would get the terminal back
in a state that no shell wants.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

END = ""
"""The terminal has gone; no more keys come."""

_NAMES = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left",
    "\x1bOA": "up", "\x1bOB": "down", "\x1bOC": "right", "\x1bOD": "left",
    "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1b[H": "home", "\x1b[F": "end", "\x1bOH": "home", "\x1bOF": "end", "\x1b[1~": "home", "\x1b[4~": "end",
    "\t": "tab", "\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\x04": "ctrl-d",
}  # fmt: skip
_WINDOWS_NAMES = {
    "H": "up", "P": "down", "M": "right", "K": "left", "I": "page up", "Q": "page down", "G": "home", "O": "end",
}  # fmt: skip


class Keys:
    """The keys of standard input, while the block lasts."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        if sys.platform != "win32":
            import termios
            import tty

            descriptor = sys.stdin.fileno()
            self._before = termios.tcgetattr(descriptor)
            tty.setcbreak(descriptor)
            changed = termios.tcgetattr(descriptor)
            changed[6][termios.VSUSP] = b"\x00"
            termios.tcsetattr(descriptor, termios.TCSADRAIN, changed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.platform != "win32":
            import termios

            termios.tcsetattr(sys.stdin.fileno(), termios.TCSAFLUSH, self._before)

    def read(self, seconds: float) -> str | None:
        """The next key; `END` if none will come; None if none has come within so many seconds."""
        if not self._waiting:
            self._waiting.extend(_typed_on_windows(seconds) if sys.platform == "win32" else _typed(seconds))
        return self._waiting.popleft() if self._waiting else None

    def forget(self) -> None:
        """What was typed ahead does not count: it was typed by somebody who had not seen what comes now."""
        self._waiting.clear()
        if sys.platform == "win32":
            while _typed_on_windows(0):
                pass
        else:
            import termios

            termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def keys_of(text: str) -> list[str]:
    """The keys that a terminal sent; of those that it has no name for, none."""
    keys = []
    while text:
        sequence = next((one for one in _NAMES if text.startswith(one)), None)
        if sequence is None and text[0] == "\x1b":  # of a key that is not known: up to its letter
            text = text[_length_of_unknown(text) :]
            continue
        sequence = sequence or text[0]
        keys.append(_NAMES.get(sequence, sequence))
        text = text[len(sequence) :]
    return keys


def _length_of_unknown(text: str) -> int:
    for place, character in enumerate(text[1:], start=1):
        if character == "\x1b":  # the next key's
            return place
        if character.isalpha() or character == "~":
            return place + 1
    return len(text)


def _typed(seconds: float) -> list[str]:
    descriptor = sys.stdin.fileno()
    ready, _, _ = select.select([descriptor], [], [], seconds)
    if not ready:
        return []
    try:
        data = os.read(descriptor, 1024)
    except OSError:  # the terminal was closed
        data = b""
    return keys_of(data.decode(errors="replace")) if data else [END]


def _typed_on_windows(seconds: float) -> list[str]:
    if sys.platform != "win32":
        raise RuntimeError("this is not Windows")
    import msvcrt

    deadline = time.monotonic() + seconds
    while not msvcrt.kbhit():
        if time.monotonic() >= deadline:
            return []
        time.sleep(0.02)
    character = msvcrt.getwch()
    if character in ("\x00", "\xe0"):
        name = _WINDOWS_NAMES.get(msvcrt.getwch())
        return [name] if name else []
    if character == "\x03":
        raise KeyboardInterrupt
    return [_NAMES.get(character, character)]
