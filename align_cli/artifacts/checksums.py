"""Checksums: what stands in a manifest for the bytes of a file, or of all files of a folder.

A large file is read once a process while the system says that nobody has written to it: weights get their version when
they are saved, and are taken into a manifest a moment later. When a file was last changed is the system's word, which
nobody can set back. Its clock may stand still for some milliseconds, in which a file could be read and then written to:
so only a file that has been at rest when its reading begins is remembered. Where a system has no such word, as Windows,
every file is read.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import IO

from align_cli.artifacts.files import FOLDER, IS_POSIX, LINK, OTHER, open_own, stranger_kind
from align_cli.errors import DataError

STRANGERS = (LINK, OTHER)
"""What `member_checksums` gives in the place of a checksum for what is no regular file, in words: `a link`."""

LARGE_BYTES = 1 << 20
"""A smaller file is read as fast as it is looked up."""

REST_NANOSECONDS = 50_000_000
"""Longer than any system's clock of files stands still."""

_KNOWN: dict[tuple[int, int], tuple[tuple[int, int, int], str]] = {}
"""By device and number of a file: how it was, and its checksum."""


def checksum(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; of a folder, over the names and checksums of its files. Links are followed.

    Raises:
        DataError: for a pipe or a device, which may have no end.
    """
    kind = stranger_kind(path.stat().st_mode)
    if kind == FOLDER:
        members = _members(path, follow_links=True)
        return folder_checksum({name: found for name, found in members.items() if found not in STRANGERS})
    if kind is not None:
        raise DataError(f"cannot be read: it is {kind}, not a file", where=str(path))
    with path.open("rb") as stream:
        return _digest(stream)


def member_checksums(folder: Path, but: Collection[str] = ()) -> dict[str, str]:
    """The checksum of every file below a folder, by its path from there with `/`, in the order of `sorted(paths)`.

    Nothing is followed or waited for: in the place of a link's, a pipe's or a device's checksum stands what it is, one
    of `STRANGERS`. A folder that holds nothing is not seen, and files of the names in `but` are not read.
    """
    return _members(folder, follow_links=False, but=but)


def folder_checksum(members: Mapping[str, str]) -> str:
    """SHA-256 over the names and checksums of a folder's files, in whatever order they are given."""
    digest = hashlib.sha256()
    for name in sorted(members, key=lambda name: name.split("/")):
        digest.update(f"{name}\0{members[name]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _members(folder: Path, *, follow_links: bool, but: Collection[str] = ()) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name in but:
            continue
        kind = stranger_kind(os.lstat(path).st_mode)
        if kind == LINK and follow_links:
            found[name] = checksum(path) if path.is_file() else LINK
        elif kind is None:
            with os.fdopen(open_own(path, os.O_RDONLY), "rb") as stream:
                found[name] = _digest(stream)
        elif kind != FOLDER:
            found[name] = kind
    return found


def _digest(stream: IO[bytes]) -> str:
    before, began = os.fstat(stream.fileno()), time.time_ns()
    if before.st_size < LARGE_BYTES or not IS_POSIX:
        return _read_digest(stream)
    place, state = (before.st_dev, before.st_ino), _state(before)
    known_state, known = _KNOWN.get(place, (None, ""))
    if known_state == state:
        return known
    found = _read_digest(stream)
    if _state(os.fstat(stream.fileno())) == state and began - max(state[1:]) > REST_NANOSECONDS:
        _KNOWN[place] = state, found
    return found


def _state(stat: os.stat_result) -> tuple[int, int, int]:
    """What is another one once a file was written to: its length, and when its content and anything of it changed."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _read_digest(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def response_digest(prompt_ids: Iterable[int], response_ids: Iterable[int]) -> str:
    """Sixteen hexadecimal digits that stand for a response's token ids behind those of its prompt."""
    return hashlib.sha256(repr((list(prompt_ids), list(response_ids))).encode()).hexdigest()[:16]
