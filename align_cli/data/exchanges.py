"""What the rows of a source say, through the formats that they are of; or all that is wrong with them, in one error."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from align_cli.data.faults import FaultLog, RowError, describe
from align_cli.data.files import SourceRow
from align_cli.data.formats import FORMATS, format_of
from align_cli.data.formats.base import PROMPTS, Choices, Dropped, Format, Found, Wanted
from align_cli.data.sources import read_rows
from align_cli.data.template_fields import template_fields
from align_cli.errors import DataError, Fault


def read_exchanges(name_or_path: str, split: str, wanted: Wanted, choices: Choices) -> Iterator[Found]:
    """Everything that a source says, or every fault of the source in one error.

    Args:
        name_or_path: a file, a folder with one data file a split, or a Hub id; a dataset's configuration is given as
            `org/name:configuration`.
        split: which split of a folder or a Hub dataset; a single file is one split, whatever it is called.
        wanted: what it is read for.
        choices: the recipe's, where a format leaves one.

    Yields:
        What was found, in the order of the source, at least one; what takes several rows to say stands behind the rest.

    Raises:
        DataError: behind all that was found: for a source that cannot be read or holds no row, and for all rows that
            cannot be used, those of one kind in one fault; after 1000 of them reading stops.
    """
    log, is_empty = FaultLog(name_or_path), True
    together: dict[Format, list[SourceRow]] = {}
    for row in read_rows(name_or_path, split):
        if isinstance(row, Fault):
            log.add(row)
        else:
            try:
                row_format = format_of(row.fields, wanted)
                if row_format.spans_rows(wanted):
                    together.setdefault(row_format, []).append(row)
                else:
                    for one in _found(row, row_format, wanted, choices):
                        is_empty = False
                        yield one
            except RowError as error:
                log.add(error.at(row.where))
        if log.is_full:
            break
    for row_format, rows in together.items():
        for said in row_format.of_all(rows, wanted, choices):
            if isinstance(said, Fault):
                log.add(said)
            else:
                try:
                    checked = _checked(said, wanted)
                except RowError as error:
                    log.add(error.at(said.where))
                else:
                    is_empty = False
                    yield checked
    log.raise_if_any()
    if is_empty:
        raise DataError("there are no rows", where=name_or_path, hint="give a source with at least one row")


def uses_of(name_or_path: str, split: str) -> tuple[Wanted, ...]:
    """What a source can be read for, by its first row that is of a known format; what is wanted of it most comes first.

    Raises:
        DataError: for a source that cannot be read, or holds no such row.
    """
    for row in read_rows(name_or_path, split):
        if isinstance(row, Fault):
            continue
        uses = dict.fromkeys(use for known in FORMATS for use in known.gives if known.recognises(row.fields, use))
        if uses:
            return tuple(uses)
    deque(read_exchanges(name_or_path, split, PROMPTS, Choices()), maxlen=0)  # which tells what is wrong with them
    raise DataError("no row is of a known format", where=name_or_path)


def _found(row: SourceRow, row_format: Format, wanted: Wanted, choices: Choices) -> Iterator[Found]:
    for said in row_format.exchanges(row.fields, wanted, choices):
        yield _checked(Found(row.where, row.fields, row_format.name, said), wanted)


def _checked(found: Found, wanted: Wanted) -> Found:
    """With what its template gets; a prompt to sample from cannot be blank."""
    if isinstance(found.said, Dropped):
        return found
    prompt = found.said.prompt
    if wanted == PROMPTS and isinstance(prompt, str) and not prompt.strip():
        raise RowError(f"the prompt is {describe(prompt)}; it cannot be blank", "remove the row")
    return found._replace(template=template_fields(found.fields, found.said.prompt))
