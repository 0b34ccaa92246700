"""What a key of `data` names: a built-in world, or a file, a folder or a Hub id, a split of it, a part of its rows.

`org/name[test_prefs]`, `pairs.jsonl[:600]`, `org/name[train][10%:]`: as in `datasets`, but that the split may be left
out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from align_cli.errors import DataError

PLAYGROUND, REVIEWS = "playground", "reviews"
"""The built-in worlds; the first is the name of a policy, too."""
BUILT_IN_WORLDS = (PLAYGROUND, REVIEWS)

Row = TypeVar("Row")

_BRACKETS = re.compile(r"(?P<place>.+?)(?:\[(?P<split>[\w.-]+)\])?(?:\[(?P<rows>[^\[\]]*:[^\[\]]*)\])?", re.DOTALL)
_BOUND = re.compile(r"-?\d{1,18}|\d{1,18}%")


class DataName(NamedTuple):
    """A name in its parts.

    Args:
        place: the file, the folder or the Hub id.
        split: of a folder or a Hub dataset; None where the name has none.
        rows: `begin:end` as it is written; empty for all.
    """

    place: str
    split: str | None = None
    rows: str = ""

    @classmethod
    def of(cls, text: str) -> DataName:
        """The parts of a name; a file whose own name ends in brackets is that file.

        Raises:
            DataError: if what stands in the last brackets is no part of rows.
        """
        found = _BRACKETS.fullmatch(text)
        if found is None or exists(text):
            return cls(text)
        bounds = [bound.strip() for bound in (found["rows"] or ":").split(":")]
        if len(bounds) != 2 or not all(_BOUND.fullmatch(bound) for bound in bounds if bound):
            raise DataError(
                f"[{found['rows']}] is no part of rows",
                where=text,
                hint="as in [:600], the first 600, [600:], all others, or [:10%]",
            )
        return cls(found["place"], found["split"], ":".join(bounds) if any(bounds) else "")

    def part(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Of all rows those that are meant, in their order."""
        if not self.rows:
            return rows
        begin, end = self.rows.split(":")
        if "%" not in self.rows and "-" not in self.rows:
            return islice(rows, int(begin or 0), int(end) if end else None)
        every = list(rows)
        return every[_position(begin, len(every), 0) : _position(end, len(every), len(every))]


def exists(path: str) -> bool:
    """Whether there is such a file or folder; `~` is the user's own."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _position(bound: str, count: int, default: int) -> int:
    if not bound:
        return default
    return round(int(bound[:-1]) * count / 100) if bound.endswith("%") else int(bound)
