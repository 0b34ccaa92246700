"""The rows of a source, whatever it is: a file, a folder, or a dataset of the Hub.

A folder's split is its one file of that name (`train.jsonl`); any other layout, and the Hub, are left to
`datasets.load_dataset`. Owns what a name stands for; knows nothing of what rows mean. `exchanges.py` calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from align_cli.artifacts.checksums import checksum
from align_cli.data.files import KNOWN_SUFFIXES, SourceRow, read_text_file, suffix_of
from align_cli.data.tables import read_dataset, read_parquet
from align_cli.errors import DataError, Fault, nearest
from align_cli.recipe.data_names import DataName

LARGE_BYTES = 1 << 20
"""Of a file below this size nothing is remembered: it is read again in a second."""

# An organisation and a name, or a name alone, as the Hub has them; then, if any, a configuration.
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")


def read_rows(name_or_path: str, split: str) -> Iterator[SourceRow | Fault]:
    """The rows of a source in their order, and in between the faults after which reading can go on.

    Args:
        name_or_path: what `DataName` has the parts of.
        split: of a folder or a Hub dataset, where the name has none.

    Raises:
        DataError: for a fault after which nothing more can be read.
    """
    name = DataName.of(name_or_path)
    yield from name.part(_all_rows(name.place, name.split, split))


def content_of(name_or_path: str, split: str = "train") -> str | None:
    """What stands for all that a large source holds, to the letter; None for one that is read in no time, or unknown.

    Args:
        name_or_path: a file, or a folder with one file a split; of anything else nothing is known without reading it.
        split: of a folder, where the name has none.
    """
    name = DataName.of(name_or_path)
    try:
        path = Path(name.place).expanduser()
        files = _split_files(path, name.split or split) if path.is_dir() else [path]
        if len(files) != 1 or not files[0].is_file() or files[0].stat().st_size < LARGE_BYTES:
            return None
        return checksum(files[0])
    except (OSError, RuntimeError, ValueError):  # which whoever reads it tells of
        return None


def _all_rows(name_or_path: str, own_split: str | None, split: str) -> Iterator[SourceRow | Fault]:
    try:
        path = Path(name_or_path).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, an unknown ~user, a NUL
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"not a usable path ({reason})", where=name_or_path, hint="check the name") from error
    split = own_split or split
    if is_folder:
        return _read_folder(name_or_path, path, split)
    if is_there and own_split is not None:
        what = f"[{own_split}] names a split, and a file is one split"
        raise DataError(what, where=name_or_path, hint="leave it out, or name a part of the rows, as in [:600]")
    if is_there:
        return _read_file(name_or_path, path)
    if _looks_like_hub_id(name_or_path):
        hub_id, _, configuration = name_or_path.partition(":")
        return read_dataset(name_or_path, hub_id, configuration or None, split, _hint_at_hub(path))
    raise DataError("there is no such file", where=name_or_path, hint=_hint_at_file(path))


def is_text_file(name_or_path: str) -> bool:
    """Whether the name is that of a plain text file, which holds one text a line and no keys."""
    return suffix_of(Path(DataName.of(name_or_path).place)) in {".txt", ".txt.gz"}


def _read_file(name: str, path: Path) -> Iterator[SourceRow | Fault]:
    if not path.is_file():
        raise DataError("this is a pipe or a device, not a file", where=name, hint="write its rows to a file first")
    suffix = suffix_of(path)
    if suffix not in KNOWN_SUFFIXES:
        raise DataError(
            f"the name ends in {suffix!r}, which is no known format" if suffix else "the name has no ending",
            where=name,
            hint=f"use one of {', '.join(KNOWN_SUFFIXES)}",
        )
    return read_parquet(name, path) if suffix == ".parquet" else read_text_file(name, path)


def _read_folder(name: str, path: Path, split: str) -> Iterator[SourceRow | Fault]:
    files = _split_files(path, split)
    if len(files) == 1:  # read here rather than by `datasets`, so that faults name their line
        return _read_file(str(Path(name) / files[0].name), files[0])
    return read_dataset(
        name, str(path), None, split, f"{path} should hold one file of that name, such as {split}.jsonl"
    )


def _split_files(folder: Path, split: str) -> list[Path]:
    """The files of a folder that are called as a split is."""
    return [folder / f"{split}{suffix}" for suffix in KNOWN_SUFFIXES if (folder / f"{split}{suffix}").is_file()]


def _looks_like_hub_id(name: str) -> bool:
    return bool(HUB_ID.fullmatch(name)) and suffix_of(Path(name)) not in KNOWN_SUFFIXES


def _hint_at_file(path: Path) -> str:
    if path.is_symlink():
        return "it is a link to what is not there"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either; check the path"
    close = _nearest_file(path)
    return f"did you mean {close}?" if close else f"nothing in {path.parent} has a name like it"


def _hint_at_hub(path: Path) -> str:
    close = _nearest_file(path)
    if close:
        return f"no file has this name, so it was taken for a Hub id; did you mean {close}?"
    return (
        "no file has this name, so it was taken for a Hub id: check the id, the split and the network "
        "(with HF_HUB_OFFLINE=1 only what is in the local cache can be read)"
    )


def _nearest_file(path: Path) -> Path | None:
    try:
        close = nearest(path.name, sorted(entry.name for entry in path.parent.iterdir()))
    except OSError:
        return None
    return path.parent / close if close else None
