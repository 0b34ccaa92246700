"""`run.json`: what makes a folder a run's. What it was begun with, and what its machine has shown since.

    {"versions", "machine", "seed", "schema_version", "micro_batches", "num_threads", "crc32"}

`micro_batches` says how many pairs a forward pass holds from a round on, where the memory did not hold the recipe's:
`{"3": [8, 4]}` is 4 in the place of 8. The processes that go on with the run cut their batches likewise, and end in the
same bytes. `num_threads` says likewise how many threads compute from a round on: `{"0": 1, "3": 2}`.
Both change a run's bytes, so neither is believed where the CRC-32 of the rest tells that somebody changed the document.
"""

from __future__ import annotations

import platform
import socket
import zlib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, Field, StrictInt, StringConstraints, TypeAdapter, ValidationError

from align_cli import __version__
from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import SCHEMA_VERSION
from align_cli.artifacts.store import read_json, write_json
from align_cli.errors import DataError

VERSIONED_PACKAGES = ("torch", "transformers", "trl", "datasets", "accelerate", "tokenizers", "numpy")
MICRO_BATCHES = "micro_batches"
NUM_THREADS = "num_threads"
CRC = "crc32"

Value = TypeVar("Value")


class MicroBatch(NamedTuple):
    """Pairs in a forward pass: how many the recipe has, and how many the memory held, which is fewer."""

    recipes: int
    held: int


def _is_fewer(sizes: list[int]) -> list[int]:
    if len(sizes) != 2 or not 1 <= sizes[1] < sizes[0]:
        raise ValueError("no part of the recipe's")
    return sizes


_MICRO_BATCHES: TypeAdapter[dict[str, list[int]]] = TypeAdapter(
    dict[
        Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,8}$")],
        Annotated[list[StrictInt], AfterValidator(_is_fewer)],
    ]
)
_NUM_THREADS: TypeAdapter[dict[str, int]] = TypeAdapter(
    dict[Annotated[str, StringConstraints(pattern=r"^(0|[1-9]\d{0,8})$")], Annotated[StrictInt, Field(ge=1, le=4096)]]
)


class Begun:
    """The document of a run that was begun.

    Args:
        path: where it lies; a function, since whoever looks refuses what is no file.
    """

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path
        self._micro_batches: dict[int, MicroBatch] | None = None

    @property
    def is_there(self) -> bool:
        """Whether a run was begun here."""
        return self._path().is_file()

    def write(self, seed: int) -> None:
        """A run begins."""
        machine = {"host": socket.gethostname(), "platform": platform.platform()}
        self._write({"versions": _versions(), "machine": machine, "seed": seed, "schema_version": SCHEMA_VERSION})

    def versions(self) -> dict[str, str]:
        """The versions that the run was begun with, by package; none where the document does not say."""
        found = self._document().get("versions")
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}

    def micro_batches(self) -> dict[int, MicroBatch]:
        """Pairs a forward pass from a round on, by round; read once. None are known where the document is damaged."""
        if self._micro_batches is None:
            found = self._by_round(MICRO_BATCHES, _MICRO_BATCHES)
            self._micro_batches = {number: MicroBatch(*sizes) for number, sizes in found.items()}
        return self._micro_batches

    def remember_micro_batch(self, round_number: int, micro_batch: MicroBatch) -> None:
        """From this round on, a forward pass holds so many pairs."""
        known = self.micro_batches()
        known[round_number] = micro_batch
        self._remember(MICRO_BATCHES, known)

    def num_threads(self, round_number: int) -> int | None:
        """How many threads compute in a round; None where nothing was said, or the document is damaged."""
        by_round = self._by_round(NUM_THREADS, _NUM_THREADS)
        return by_round.get(max((number for number in by_round if number <= round_number), default=-1))

    def remember_num_threads(self, round_number: int, num_threads: int) -> None:
        """So many compute from this round on; what was said of later rounds is no longer true."""
        known = self._by_round(NUM_THREADS, _NUM_THREADS)
        before = {number: threads for number, threads in known.items() if number < round_number}
        self._remember(NUM_THREADS, {**before, round_number: num_threads})

    def forget(self) -> None:
        """Read it anew: another process may have written it."""
        self._micro_batches = None

    def _by_round(self, key: str, kind: TypeAdapter[dict[str, Value]]) -> dict[int, Value]:
        """What a key says from a round on; nothing where that is damaged."""
        try:
            found = kind.validate_python(self._document().get(key, {}))
        except ValidationError:
            return {}
        return {int(number): value for number, value in found.items()}

    def _remember(self, key: str, by_round: Mapping[int, object]) -> None:
        self._write({**self._document(), key: {str(number): by_round[number] for number in sorted(by_round)}})

    def _write(self, document: dict[str, Any]) -> None:
        write_json(self._path(), {**document, CRC: _crc(document)})

    def _document(self) -> dict[str, Any]:
        """What the document says, as far as it can be believed."""
        try:
            document = read_json(self._path())
        except DataError:
            return {}
        if not isinstance(document, dict):
            return {}
        crc = document.pop(CRC, None)
        if crc not in (None, _crc(document)):
            return {key: value for key, value in document.items() if key not in (MICRO_BATCHES, NUM_THREADS)}
        return document


def _crc(document: dict[str, Any]) -> int:
    return zlib.crc32(to_json(document).encode(errors="surrogatepass"))


def _versions() -> dict[str, str]:
    packages = {"align": __version__, "python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return packages
