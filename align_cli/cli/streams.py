"""Records from a file or from standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

from align_cli.artifacts.records import Record
from align_cli.artifacts.store import parse_records, read_records
from align_cli.errors import DataError

RecordType = TypeVar("RecordType", bound=Record)


def read_stream(place: str, kind: type[RecordType]) -> list[RecordType]:
    """All records, read to the end before anything else happens: in a pipe, what writes them has then finished.

    Raises:
        DataError: if a line is broken, or if there are no records.
    """
    name = "<stdin>" if place == "-" else place
    records = parse_records(sys.stdin, kind, name) if place == "-" else read_records(Path(place), kind)
    if not records:
        noun = f"{kind.__name__.lower()}s"
        raise DataError(f"there are no {noun}", where=name, hint="look at what the command before it in the pipe says")
    return records
