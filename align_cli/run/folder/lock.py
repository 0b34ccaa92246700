"""One process works on a run. The lock dies with its process."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align_cli.artifacts.children import is_about_to_close, keep_from_children
from align_cli.artifacts.disk import DISK_FAULTS, disk_error, writing
from align_cli.artifacts.files import open_own, stranger_kind
from align_cli.errors import AlignError, DiskError, RunError


class Lock:
    """The lock of a folder.

    Args:
        folder: what is locked; made if it is not there.
        path: the lock's file, in the folder.
    """

    def __init__(self, folder: Path, path: Path) -> None:
        self._folder = folder
        self._path = path
        self._held: tuple[int, int] | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder: a second process on the same run is refused.

        Raises:
            RunError: if another process holds it; names its host, pid and start. While it is held: if the folder is
                taken away.
            AlignError: for a disk that is full, read-only or broken.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.fdopen(open_own(self._path, os.O_RDWR | os.O_CREAT), "r+", encoding="utf-8")
        except OSError as error:
            if os.path.lexists(self._path) and stranger_kind(os.lstat(self._path).st_mode) is not None:
                raise RunError(f"{error.strerror}", where=str(self._path), hint="remove it") from None
            kind = DiskError if error.errno in DISK_FAULTS else RunError
            raise kind(
                f"output_dir cannot be made or written: {error.strerror}",
                where=str(self._folder),
                hint="choose another output_dir",
            ) from None
        with lock as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = stream.read().strip() or "another process"
                raise RunError(
                    f"the run is in use by {holder}", where=str(self._folder), hint="wait for it, or end it first"
                ) from None
            self._held = _identity(os.fstat(stream.fileno()))
            keep_from_children(stream.fileno())
            try:
                with writing(self._path):
                    stream.truncate(0)
                    stream.write(f"{socket.gethostname()} pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
                    stream.flush()
                yield
            except Exception as error:
                self.check()  # without its folder a run meets all kinds of errors; this is the one to tell
                fault = None if isinstance(error, AlignError) else disk_error(error, str(self._folder))
                if fault is None:
                    raise
                raise fault from None
            finally:
                self._held = None
                is_about_to_close(stream.fileno())

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
            raise RunError(
                "the run's folder, or the .lock in it, was removed or replaced while the run was at work",
                where=str(self._folder),
                hint="put it back if it was moved, then run the same command again: it goes on from what is there",
            )


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
