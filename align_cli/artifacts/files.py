"""Files that are whole or not there: write to a temporary name, fsync, rename.

Called by stages and by the run; knows nothing of what the files hold.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from align_cli.artifacts.disk import writing

TEMPORARY_SUFFIX = ".partial"
"""What a file is called while it is being written; a leftover of a killed process is never read."""

REPLACED_SUFFIX = ".replaced"
"""What a folder is called while a new one takes its place."""


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: afterwards it holds all of `text`, or what it held before."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError:
            _forget(temporary)  # on a full disk what is half written takes the room of what is to come
            raise
        _sync(path.parent)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends without an error.

    Whoever looks, also after a kill, finds under that name the whole old folder, the whole new one, or none.
    """
    temporary, old = path.with_name(path.name + TEMPORARY_SUFFIX), path.with_name(path.name + REPLACED_SUFFIX)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                # Some libraries make theirs for the owner alone. What has another name too, another run holds as well.
                if file.is_file() and file.stat().st_nlink == 1:
                    file.chmod(0o666 & ~_umask())
                _sync(file)
            _sync(temporary)
            _replace_folder(path, temporary, old)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(path: Path, new: Path, old: Path) -> None:
    if path.exists():
        path.replace(old)
    try:
        new.replace(path)
    except OSError:
        if old.exists():
            old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _forget(path: Path) -> None:
    """Remove a file, if that can be done."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Make a file or a folder's list of names durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
