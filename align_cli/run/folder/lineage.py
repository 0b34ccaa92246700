"""Where a run was forked from. It is written first of all: a fork that was killed is known by it, and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from align_cli.artifacts.store import read_json, write_json
from align_cli.errors import DataError
from align_cli.run.folder.layout import LINEAGE, Layout


class Origin(NamedTuple):
    """Where a run forks from: another run, after one of its rounds."""

    run: Path
    round: int

    def __str__(self) -> str:
        return f"{self.run}@{self.round}"


class Lineage:
    """The run's origin, read once.

    Args:
        layout: where it lies.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: tuple[Origin | None] | None = None

    @property
    def origin(self) -> Origin | None:
        """Where the run was, or is being, forked from; None for a run of its own.

        Raises:
            DataError: if what is written of it is broken.
        """
        if self._known is None:
            self._known = (self._read(),)
        return self._known[0]

    def inherits(self, round_number: int) -> bool:
        """Whether a round was taken over."""
        return self.origin is not None and round_number <= self.origin.round

    def write(self, origin: Origin) -> None:
        """The run begins with another's rounds."""
        write_json(self._layout.file(LINEAGE), {"run": str(origin.run), "round": origin.round})
        self._known = (origin,)

    def remove(self) -> None:
        """The run begins with nobody's rounds."""
        self._layout.file(LINEAGE).unlink(missing_ok=True)
        self._known = (None,)

    def forget(self) -> None:
        """Read it anew: another process may have written it."""
        self._known = None

    def _read(self) -> Origin | None:
        path = self._layout.file(LINEAGE)
        if not path.is_file():
            return None
        found: Any = read_json(path)
        if not (isinstance(found, dict) and type(found.get("round")) is int and type(found.get("run")) is str):
            raise DataError(
                "this does not say where a run was forked from", where=str(path), hint=self._layout.damage_remedy(path)
            )
        return Origin(Path(found["run"]), found["round"])
