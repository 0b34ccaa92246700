"""What a tracker is, and what a run is to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from align_cli.tracking.points import Point


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers know it.

    Args:
        id: its own, made once and kept in the run's folder: who goes on with the run goes on with the same id.
        name: what people see.
        project: what the run stands among; None for whatever the tracker's own variables say, else `align`.
        folder: where trackers of this machine keep what they are told.
        config: the resolved recipe, without secrets.
        recipe: the same as YAML.
        passed: keys of `train` that are one tracker's own, such as `trackio_space_id`.
    """

    id: str
    name: str
    project: str | None
    folder: Path
    config: dict[str, Any]
    recipe: str
    passed: dict[str, Any]

    @property
    def own_name(self) -> str:
        """Its name among all runs, as files and databases take it."""
        plain = re.sub(r"[^\w-]+", "-", self.name)[:80]
        return f"{plain}-{self.id}"


class Tracker(Protocol):
    """Told how a run goes. Whatever its methods raise ends no run."""

    def begin(self, run: TrackedRun) -> int:
        """Go on with the run, or begin it.

        Returns:
            The place of the last point that it has; below 0 where it has none.
        """
        ...

    def tell(self, point: Point) -> None:
        """One more point, behind all others."""
        ...

    def end(self, *, is_finished: bool) -> None:
        """Nothing more comes from this process; the run is finished, or goes on in another."""
        ...
