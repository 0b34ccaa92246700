"""Files that are whole or not there: write to a temporary name, fsync, rename.

Nothing is followed out of the folder that a name lies in: what stands in the place of a file of ours, a link, a pipe, a
device or a folder, is refused or removed, and never opened. Called by stages and by the run; knows nothing of what the
files hold.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from operator import or_
from pathlib import Path

from align_cli.artifacts.disk import writing

TEMPORARY_SUFFIX = ".partial"
"""What a file is called while it is being written; a leftover of a killed process is never read."""

REPLACED_SUFFIX = ".replaced"
"""What a folder is called while a new one takes its place."""

FICLONE = 0x40049409
"""Linux's ioctl that copies a file by reference (Btrfs, XFS)."""

OWN_FLAGS = [getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")]
"""No link is followed, no pipe is waited for, children inherit nothing, bytes stay as they are: what a system has flags
for."""

IS_POSIX = os.name == "posix"

LINK, FOLDER, OTHER = "a link", "a folder", "a pipe or a device"
STRANGER_ERRORS = {LINK: errno.ELOOP, FOLDER: errno.EISDIR, OTHER: errno.ENXIO}


def stranger_kind(mode: int) -> str | None:
    """What something is, by its `st_mode`, if it is no regular file: `a link`, `a folder`, `a pipe or a device`."""
    if stat.S_ISREG(mode):
        return None
    return LINK if stat.S_ISLNK(mode) else FOLDER if stat.S_ISDIR(mode) else OTHER


def open_own(path: Path, flags: int) -> int:
    """Open a file of ours, a regular one under its own name: no link is followed, no pipe is waited for.

    Args:
        path: the file.
        flags: as `os.open` takes them; a file that is made gets its mode from the umask.

    Returns:
        Its descriptor, which children do not inherit.

    Raises:
        OSError: if it cannot be opened; if it is something else, its `strerror` says what: `it is a link, not a file`.
    """
    with suppress(FileNotFoundError):
        _refuse_stranger(path, os.lstat(path).st_mode)
    # What has come in between is neither followed nor waited for.
    descriptor = os.open(path, reduce(or_, OWN_FLAGS, flags), 0o666)
    try:
        _refuse_stranger(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_stranger(path: Path, mode: int) -> None:
    kind = stranger_kind(mode)
    if kind is not None:
        raise OSError(STRANGER_ERRORS[kind], f"it is {kind}, not a file", str(path))


def remove(path: Path) -> None:
    """Remove what stands under a name, if anything: a file, a folder with all that it holds, a link itself, a pipe."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: afterwards it holds all of `text`, or what it held before."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step: afterwards it holds all of `content`, or what it held before."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        try:
            descriptor = open_own(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError:
            _forget(temporary)  # on a full disk what is half written takes the room of what is to come
            raise
        _sync(path.parent)


def append_line(path: Path, line: str, *, is_durable: bool = True) -> None:
    """Append a line, and its end, to a file, which is made if it is not there; when this returns the line is durable.

    A line that a killed process left torn is ended first. The cost does not grow with the file.

    Args:
        path: the file.
        line: the line.
        is_durable: False leaves it to the next line that is, whether this one outlives a machine that stops; the first
            of a file always is.

    Raises:
        WriteError: if it cannot be written, or is no regular file.
    """
    with writing(path):
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with os.fdopen(descriptor, "ab") as stream:
            size = os.fstat(descriptor).st_size
            os.lseek(descriptor, max(size - 1, 0), os.SEEK_SET)
            is_torn = size > 0 and os.read(descriptor, 1) != b"\n"
            stream.write(("\n" if is_torn else "").encode() + f"{line}\n".encode())
            stream.flush()
            if is_durable or size == 0:
                os.fsync(descriptor)
        if size == 0:
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
            remove(leftover)
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                # Some libraries make theirs for the owner alone.
                if file.is_file():
                    file.chmod(0o666 & ~_umask())
                _sync(file)
            _sync(temporary)
            _replace_folder(path, temporary, old)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(path: Path, new: Path, old: Path) -> None:
    if os.path.lexists(path):
        path.replace(old)
    try:
        new.replace(path)
    except OSError:
        if os.path.lexists(old):
            old.replace(path)
        raise
    with suppress(OSError):
        remove(old)


def folder_there(path: Path) -> Path:
    """The folder itself where it is there, else the nearest above it that is."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def copy_tree(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all that it holds, to a name that is free. Nothing is shared that a write changes.

    Modes are what the umask leaves, whatever the source's are.

    Raises:
        OSError: if it cannot be read or written, or holds a link, a pipe or a device.
    """
    if stranger_kind(os.lstat(source).st_mode) != FOLDER:
        copy_file(source, target)
        return
    target.mkdir()
    for entry in sorted(source.iterdir()):
        copy_tree(entry, target / entry.name)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file to a name that is free: by reference where the file system can, else byte by byte.

    Raises:
        OSError: if it cannot be read or written, or is no regular file.
    """
    with os.fdopen(open_own(source, os.O_RDONLY), "rb") as read:
        descriptor = open_own(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "wb") as written:
            if not _is_cloned(read.fileno(), descriptor):
                shutil.copyfileobj(read, written, 1 << 20)


def _is_cloned(source: int, target: int) -> bool:
    """Let a file have another's blocks until one of them is written to; whether the file system could."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    return True


def _forget(path: Path) -> None:
    """Remove a file, if that can be done."""
    with suppress(OSError):
        path.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Make a file or a folder's list of names durable; of folders, as far as the system does that."""
    if not IS_POSIX and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if IS_POSIX else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
