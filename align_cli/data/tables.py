"""Rows of tables: Parquet files, and whatever `datasets.load_dataset` can load.

A table has a column for every key that any row has, within messages and tools too; the nulls that fill the gaps are
left out again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from align_cli.data.faults import shorten
from align_cli.data.files import SourceRow
from align_cli.data.limits import check_unpacked, unpacked_limit
from align_cli.errors import DataError, first_line

_ROWS_AT_ONCE = 256  # few, since a value that stands in the file once can stand in every row of a batch


def read_parquet(name: str, path: Path) -> Iterator[SourceRow]:
    """The rows of a Parquet file.

    Raises:
        DataError: if the file is no Parquet, or damaged, or unpacks to far more than its size.
    """
    import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]

    try:
        limit = unpacked_limit(path.stat().st_size)
        with pyarrow.parquet.ParquetFile(path) as table:
            yield from _table_rows(name, _parquet_rows(name, table.iter_batches(_ROWS_AT_ONCE), limit))
    except DataError:
        raise
    except Exception as error:  # dates out of range, unknown time zones: whatever Python cannot hold raises its own
        raise DataError(
            f"not a readable Parquet file ({_in_a_line(error)})", where=name, hint="write or download the file again"
        ) from error


def read_dataset(name: str, source: str, configuration: str | None, split: str, hint: str) -> Iterator[SourceRow]:
    """The rows of one split of a folder or of a dataset of the Hub.

    Args:
        name: what the user called it.
        source: the folder or the Hub id.
        configuration: which of the dataset's configurations, if it has several.
        split: such as `train` or `test[:100]`.
        hint: the remedy to show where it cannot be loaded.

    Raises:
        DataError: if it cannot be found, reached or read, or has no such split.
    """
    import datasets  # type: ignore[import-untyped, unused-ignore]

    try:
        yield from _table_rows(name, datasets.load_dataset(source, configuration, split=split))
    except Exception as error:  # datasets, huggingface_hub, httpx and pyarrow each have a family of their own
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        reason = f"{type(cause or error).__name__}: {_in_a_line(cause or error)}"
        raise DataError(f"split {split!r} cannot be loaded ({reason})", where=name, hint=hint) from error


def _parquet_rows(name: str, batches: Iterable[Any], limit: int) -> Iterator[dict[str, Any]]:
    num_bytes = 0
    for batch in batches:
        num_bytes += batch.nbytes
        check_unpacked(num_bytes, limit, name)
        yield from batch.to_pylist()


def _table_rows(name: str, rows: Iterable[dict[str, Any]]) -> Iterator[SourceRow]:
    for index, row in enumerate(rows):
        yield SourceRow(f"{name}[{index}]", _without_gaps(row))


def _without_gaps(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_gaps(inner) for key, inner in value.items() if inner is not None}
    return [_without_gaps(inner) for inner in value] if isinstance(value, list) else value


def _in_a_line(error: BaseException) -> str:
    line = first_line(error)
    return shorten(line)[1:-1] if line else type(error).__name__
