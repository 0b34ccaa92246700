"""`run.json`: what makes a folder a run's. What it was begun with, and what its machine has shown since.

    {"versions", "machine", "seed", "schema_version", "micro_batches"}

`micro_batches` says how many pairs a forward pass holds from a round on, where the memory did not hold the recipe's:
`{"3": [8, 4]}` is 4 in the place of 8. The processes that go on with the run cut their batches likewise, and end in the
same bytes.
"""

from __future__ import annotations

import platform
import socket
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, StrictInt, StringConstraints, TypeAdapter, ValidationError

from align_cli import __version__
from align_cli.artifacts.records import SCHEMA_VERSION
from align_cli.artifacts.store import read_json, write_json
from align_cli.errors import DataError

VERSIONED_PACKAGES = ("torch", "transformers", "trl", "datasets", "accelerate", "tokenizers", "numpy")
MICRO_BATCHES = "micro_batches"


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
        write_json(
            self._path(), {"versions": _versions(), "machine": machine, "seed": seed, "schema_version": SCHEMA_VERSION}
        )

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
        write_json(self._path(), {**self._document(), MICRO_BATCHES: by_round})

    def forget(self) -> None:
        """Read it anew: another process may have written it."""
        self._micro_batches = None

    def _document(self) -> dict[str, Any]:
        try:
            document = read_json(self._path())
        except DataError:
            return {}
        return document if isinstance(document, dict) else {}


def _versions() -> dict[str, str]:
    packages = {"align": __version__, "python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return packages
