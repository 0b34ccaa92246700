"""What align remembers from one start to the next: what it has found out of large files, and what takes long to find.

An entry stands under a key that is a digest of everything that it depends on: the contents of files, the recipe's keys
that matter, and always align's own code and the libraries that read and render. Where any of that is another, the key
is, and nothing is found. An entry is written in one step and carries a checksum: what is torn or damaged is no entry.
What faults were found is never remembered: they are looked for, and told, at every start.

No artifact is made of it but what would be made without it, and all of it may be removed at any time: `$XDG_CACHE_HOME
/align`, else `~/.cache/align`. What nobody has asked for in a month goes when something new is kept. Where nothing can
be written, nothing is remembered.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import align_cli
from align_cli.artifacts.files import open_own, write_text
from align_cli.artifacts.journal import line_of, row_of
from align_cli.artifacts.json_text import to_json
from align_cli.errors import AlignError

LIBRARIES = ("transformers", "tokenizers", "jinja2", "datasets", "pyarrow")
UNUSED_SECONDS = 30 * 24 * 3600
SUFFIX = ".json"


def key_of(*parts: Any) -> str:
    """The key of what depends on these parts, each of which JSON has, and on whoever reads them."""
    return hashlib.sha256(to_json([_code(), *parts]).encode()).hexdigest()


def place(name: str) -> Path:
    """Where something of this name lies, beside the entries."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "align" / name


def folder() -> Path:
    """The folder of all that is remembered, made where it is not there; nobody else can look into it.

    Raises:
        OSError: if it cannot be made.
    """
    found = place("")
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    return found


def recall(key: str) -> dict[str, Any] | None:
    """What was remembered under a key; None where nothing was, or where it is not whole."""
    path = place(key + SUFFIX)
    try:
        with os.fdopen(open_own(path, os.O_RDONLY), "rb") as stream:
            row = row_of(stream.read())
    except OSError:
        return None
    if row is None or row.get("for") != key:
        return None
    _touch(path)
    return row


def remember(key: str, found: dict[str, Any]) -> None:
    """Keep something under a key, if that can be written."""
    path = place(key + SUFFIX)
    with suppress(OSError, AlignError):
        _forget_unused(folder())
        write_text(path, line_of({"for": key, **found}).decode())


def _touch(path: Path) -> None:
    """Somebody has asked for it."""
    for one in path.parent.glob(f"{path.stem}.*"):
        with suppress(OSError):
            os.utime(one)


def _forget_unused(within: Path) -> None:
    for path in within.iterdir():
        with suppress(OSError):
            if path.is_file() and path.stat().st_mtime < time.time() - UNUSED_SECONDS:
                path.unlink()


@cache
def _code() -> str:
    """Stands for all code that reads, renders and measures: align's own, to the letter, and the libraries' versions."""
    root = Path(align_cli.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return to_json([align_cli.__version__, digest.hexdigest(), sys.version, *map(_version, LIBRARIES)])


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
