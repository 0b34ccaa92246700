"""Scratch folders: what libraries want a folder for, and nobody keeps.

Each lies in the system's temporary directory, or in another that is named, and holds a file that is locked for as long
as its process lives. What a killed process left behind is thereby known, and goes when the next scratch folder is made
there.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from align_cli.artifacts.children import is_about_to_close, keep_from_children
from align_cli.artifacts.files import open_own, remove

PREFIX = "align-"
LOCK_NAME = ".align-scratch"
"""Makes a folder one of ours; a run's folder, which may have the prefix too, has no such file."""


class ScratchFolder:
    """A new folder, which goes with the block, with this object or with the process, whichever ends first.

    Args:
        within: the directory that it lies in; the system's for temporary files when left out.

    Attributes:
        path: the folder.
    """

    def __init__(self, within: Path | None = None) -> None:
        within = within or Path(tempfile.gettempdir())
        _remove_leftovers(within)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=within))
        self._close = weakref.finalize(self, _let_go, self.path, _locked(self.path), os.getpid())

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def _locked(folder: Path) -> int:
    """The descriptor of the folder's lock, which has its name only once it is held: nobody finds it free before."""
    from filelock import lock_descriptor

    unnamed = folder / f"{LOCK_NAME}.new"
    descriptor = open_own(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    lock_descriptor(descriptor)
    unnamed.rename(folder / LOCK_NAME)
    keep_from_children(descriptor)
    return descriptor


def _let_go(folder: Path, lock: int, maker: int) -> None:
    if os.getpid() == maker:  # a child that was forked has this object too, and ends before its parent
        _remove_folder(folder)
    is_about_to_close(lock)
    os.close(lock)


def _remove_leftovers(within: Path) -> None:
    """Remove this user's scratch folders whose processes are dead, as far as can be done."""
    from filelock import lock_descriptor

    for folder in within.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != _user():
                continue
            lock = open_own(folder / LOCK_NAME, os.O_RDWR)
            try:
                if lock_descriptor(lock, blocking=False):
                    _remove_folder(folder)
            finally:
                os.close(lock)


def _user() -> int:
    """This user's number; 0 where users have none, and a temporary directory each."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _remove_folder(folder: Path) -> None:
    """Remove a scratch folder, its lock last: one that is half removed is still known."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.name != LOCK_NAME:
                remove(entry)
        remove(folder)
