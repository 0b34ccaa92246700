"""Answers that cost money or time, each kept as it comes under what was asked, so that none is asked for twice.

One JSON object a line, with a CRC-32. Nothing is ever taken out. A line that a kill left torn, or that was damaged, is
passed over, and that answer asked for again. Several processes may write at once. Who asks makes the key: it stands for
everything that the answer depends on, so the file outlives the stage, the run's settings and `--restart`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align_cli.artifacts.disk import WriteError, writing
from align_cli.artifacts.files import append_line, open_own
from align_cli.artifacts.journal import line_of, row_of


class Answers:
    """Answers by what was asked.

    Args:
        path: where they are kept, read when it is first needed; None keeps them in memory alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] | None = None
        self._kept: dict[str, Any] = {}

    def get(self, asked: Mapping[str, Any]) -> Any:
        """The answer to this; None where there is none.

        Args:
            asked: everything that the answer depends on, as JSON.

        Raises:
            WriteError: if what stands in the file's place is a link, a folder, a pipe or a device.
        """
        self._read()
        return self._kept.get(_key(asked))

    def keep(self, asked: Mapping[str, Any], answer: Any, by: Mapping[str, str] | None = None) -> None:
        """Keep an answer, which is JSON and not None; when this returns it is durable.

        Args:
            asked: everything that the answer depends on, as JSON.
            answer: what was answered.
            by: whose answer it is, such as a kind and a model, where others may keep theirs here too.
        """
        self._add({"for": _key(asked), "answer": answer, **({"by": dict(by)} if by else {})})

    def spent(self, amounts: Mapping[str, float], by: Mapping[str, str] | None = None) -> None:
        """Keep what an answer has cost that is itself not kept, or will be asked for again; `by` as of `keep`."""
        self._add({"spent": dict(amounts), **({"by": dict(by)} if by else {})})

    def rows(self) -> list[dict[str, Any]]:
        """All that was kept, in its order: `{"for": …, "answer": …}` and `{"spent": …}`, with `by`, if told."""
        return list(self._read())

    def _add(self, row: dict[str, Any]) -> None:
        rows = self._read()
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self._path, line_of(row).decode().rstrip("\n"))
        self._take(row, rows)

    def _read(self) -> list[dict[str, Any]]:
        if self._rows is None:
            self._rows = []
            for row in map(row_of, _lines(self._path) if self._path else []):
                if row is not None:
                    self._take(row, self._rows)
        return self._rows

    def _take(self, row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        rows.append(row)
        if "for" in row:
            self._kept[row["for"]] = row["answer"]


def _lines(path: Path) -> list[bytes]:
    """What a file of ours holds; nothing where there is none yet."""
    try:
        with writing(path), os.fdopen(open_own(path, os.O_RDONLY), "rb") as stream:
            return stream.readlines()
    except WriteError as error:
        if error.errno == errno.ENOENT:
            return []
        raise


def _key(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
