"""One process works on a run. The lock dies with its process, and its file says whose it is, and what that is at.

    .lock   ` HOST pid PID since YYYY-MM-DD HH:MM:SS`, or a blank line after the process has let go of it
            whatever its process told last

What the file says is for people, and nothing is locked to read it.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.artifacts.children import is_about_to_close, keep_from_children
from align_cli.artifacts.disk import DISK_FAULTS, disk_error, writing
from align_cli.artifacts.files import open_own, stranger_kind
from align_cli.errors import AlignError, DiskError, RunError

CLOCK = "%Y-%m-%d %H:%M:%S"
LOCKED_BYTE = 1
"""What Windows lets nobody read of a file that is locked: its first byte, which is a blank."""

LEAST_TOLD, MOST_BYTES = 240, 4000
"""A line that is told is filled up to so many characters; no more bytes than these are read."""

PATIENCE_SECONDS = 60
"""By how much two clocks of a machine may disagree on when a process began."""


class Holder(NamedTuple):
    """Who holds a lock.

    Args:
        host: the machine.
        pid: the process there.
        since: when it took the lock, by that machine's clock.
    """

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.host} pid {self.pid} since {self.since}"

    @property
    def began(self) -> float | None:
        """`since` as seconds since the epoch, by this machine's clock; None where it is no time."""
        try:
            return time.mktime(time.strptime(self.since, CLOCK))
        except (ValueError, OverflowError):
            return None

    @property
    def lives(self) -> bool | None:
        """Whether the process is there; None where this machine cannot tell, since it is another one."""
        if self.host != socket.gethostname():
            return None
        import psutil

        try:
            process, began = psutil.Process(self.pid), self.began
            if began is None:
                return False
            # A number is given to another process when the first is dead, and by then the lock was taken long ago.
            return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= began + PATIENCE_SECONDS
        except (psutil.NoSuchProcess, ValueError, OverflowError):  # a number that no process can have is one of these
            return False
        except psutil.AccessDenied:
            return True

    @property
    def memory_bytes(self) -> int | None:
        """What the process has in memory now; None where this machine cannot tell."""
        if not self.lives:
            return None
        import psutil

        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**self._asdict(), "lives": self.lives, "memory_bytes": self.memory_bytes}


class Lock:
    """The lock of a folder.

    Args:
        folder: what is locked; made if it is not there.
        path: the lock's file, in the folder.
        kind: what the folder holds, in words.
    """

    def __init__(self, folder: Path, path: Path, kind: str = "run") -> None:
        self._folder = folder
        self._kind = kind
        self._named = "output_dir" if kind == "run" else "folder"
        self._path = path
        self._held: tuple[int, int] | None = None
        self._descriptor = -1
        self._first, self._second = "", ""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder: a second process on the same run is refused.

        Raises:
            RunError: if another process holds it; names its host, pid and start. While it is held: if the folder is
                taken away.
            AlignError: for a disk that is full, read-only or broken.
        """
        self._descriptor = self._opened()
        try:
            self._take()
            try:
                with writing(self._path):
                    self._first = str(Holder(socket.gethostname(), os.getpid(), time.strftime(CLOCK)))
                    self._second = self.told
                    self._write()
                yield
            except Exception as error:
                self.check()  # without its folder a run meets all kinds of errors; this is the one to tell
                fault = None if isinstance(error, AlignError) else disk_error(error, str(self._folder))
                if fault is None:
                    raise
                raise fault from None
            finally:
                self._held, self._first = None, ""
                with suppress(OSError):
                    self._write()
                is_about_to_close(self._descriptor)
        finally:
            os.close(self._descriptor)

    @property
    def is_held(self) -> bool:
        """Whether this process holds it."""
        return self._held is not None

    def check(self) -> None:
        """Refuse to write where another process may be at work by now; nothing is checked unless the lock was taken.

        Raises:
            RunError: if the folder that was locked is no longer in its place.
        """
        if self._held is None:
            return
        try:
            found = _identity(os.lstat(self._path))
        except OSError:
            found = None
        if found != self._held:
            kind = self._kind
            raise RunError(
                f"the {kind}'s folder, or the .lock in it, was removed or replaced while the {kind} was at work",
                where=str(self._folder),
                hint="put it back if it was moved, then run the same command again: it goes on from what is there",
            )

    def tell(self, text: str) -> None:
        """Put a line below the holder's, in the place of the one before; it is lost where it cannot be written."""
        if self._held is not None:
            self._second = text
            with suppress(OSError):
                self._write()

    @property
    def holder(self) -> Holder | None:
        """Who holds it, or held it when it was killed."""
        found = re.fullmatch(r"(\S+) pid (\d{1,9}) since (.{19})", self._read()[0])
        return Holder(found[1], int(found[2]), found[3]) if found else None

    @property
    def told(self) -> str:
        """What its holder told last, or the one before."""
        return self._read()[1]

    def _opened(self) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return open_own(self._path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if os.path.lexists(self._path) and stranger_kind(os.lstat(self._path).st_mode) is not None:
                raise RunError(f"{error.strerror}", where=str(self._path), hint="remove it") from None
            kind = DiskError if error.errno in DISK_FAULTS else RunError
            raise kind(
                f"{self._named} cannot be made or written: {error.strerror}",
                where=str(self._folder),
                hint=f"choose another {self._named}",
            ) from None

    def _take(self) -> None:
        from filelock import lock_descriptor

        try:
            is_taken = lock_descriptor(self._descriptor, blocking=False)
        except OSError as error:
            raise RunError(
                f"the {self._kind}'s folder cannot be locked: {error.strerror}",
                where=str(self._folder),
                hint="choose an output_dir on a file system that has locks",
            ) from None
        if not is_taken:
            raise RunError(
                f"the {self._kind} is in use by {self.holder or 'another process'}",
                where=str(self._folder),
                hint="wait for it, or end it first",
            )
        self._held = _identity(os.fstat(self._descriptor))
        keep_from_children(self._descriptor)

    def _write(self) -> None:
        """Both lines in one go, and never shorter for a moment: who reads meanwhile finds a holder."""
        second = f"{self._second:<{LEAST_TOLD}}\n" if self._second else ""
        text = f" {self._first}\n{second}".encode()
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, text)
        os.truncate(self._descriptor, len(text))

    def _read(self) -> tuple[str, str]:
        try:
            with os.fdopen(open_own(self._path, os.O_RDONLY), "rb") as stream:
                stream.seek(LOCKED_BYTE)
                first, _, second = stream.read(MOST_BYTES).decode(errors="replace").partition("\n")
        except OSError:
            return "", ""
        return first, second.strip()


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
