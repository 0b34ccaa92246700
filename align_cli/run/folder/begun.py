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
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

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

    def micro_batches(self) -> dict[int, MicroBatch]:
        """Pairs a forward pass from a round on, by round; read once. None are known where the document is damaged."""
        if self._micro_batches is None:
            try:
                found = _MICRO_BATCHES.validate_python(self._document().get(MICRO_BATCHES, {}))
            except ValidationError:
                found = {}
            self._micro_batches = {int(number): MicroBatch(*sizes) for number, sizes in found.items()}
        return self._micro_batches

    def remember_micro_batch(self, round_number: int, micro_batch: MicroBatch) -> None:
        """From this round on, a forward pass holds so many pairs."""
        known = self.micro_batches()
        known[round_number] = micro_batch
        by_round = {str(number): known[number] for number in sorted(known)}
        self._write({**self._document(), MICRO_BATCHES: by_round})

    def num_threads(self, round_number: int) -> int | None:
        """How many threads compute in a round; None where nothing was said, or the document is damaged."""
        by_round = self._threads_by_round()
        return by_round.get(max((number for number in by_round if number <= round_number), default=-1))

    def remember_num_threads(self, round_number: int, num_threads: int) -> None:
        """So many compute from this round on; what was said of later rounds is no longer true."""
        by_round = {number: known for number, known in self._threads_by_round().items() if number < round_number}
        by_round[round_number] = num_threads
        named = {str(number): by_round[number] for number in sorted(by_round)}
        self._write({**self._document(), NUM_THREADS: named})

    def _threads_by_round(self) -> dict[int, int]:
        try:
            found = _NUM_THREADS.validate_python(self._document().get(NUM_THREADS, {}))
        except ValidationError:
            return {}
        return {int(number): known for number, known in found.items()}

    def forget(self) -> None:
        """Read it anew: another process may have written it."""
        self._micro_batches = None

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
