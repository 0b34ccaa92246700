"""All trackers of a run: begun when there is something to tell, told each point once, and never the end of a run."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

from align_cli.errors import first_line
from align_cli.tracking.base import TrackedRun, Tracker
from align_cli.tracking.points import Point

LOUD = ("alembic", "mlflow")
"""Loggers of trackers that tell of their own set-up."""


class Trackers:
    """The trackers that a recipe names.

    Args:
        names: of `TRACKERS`.
        run: what they are told of.
        warn: told once of each that fails; it is left out until another process goes on with the run.
    """

    def __init__(self, names: Sequence[str], run: Callable[[], TrackedRun], warn: Callable[[str], None]) -> None:
        self._names, self._run, self._warn = list(names), run, warn
        self._begun: dict[str, Tracker] = {}
        self._last: dict[str, int] = {}

    def tell(self, point: Point) -> None:
        """Tell a point to those that do not have it."""
        self._begin()
        for name, tracker in list(self._begun.items()):
            if point.place > self._last[name]:
                self._last[name] = point.place
                with self._failing_alone(name):
                    tracker.tell(point)

    def end(self, *, is_finished: bool) -> None:
        """Nothing more comes from this process."""
        for name, tracker in list(self._begun.items()):
            with self._failing_alone(name):
                tracker.end(is_finished=is_finished)
        self._begun = {}

    def _begin(self) -> None:
        names, self._names = self._names, []
        for name in names:
            with self._failing_alone(name):
                tracker = new_tracker(name)
                self._last[name] = tracker.begin(self._run())
                self._begun[name] = tracker

    @contextmanager
    def _failing_alone(self, name: str) -> Iterator[None]:
        """Nothing of a tracker's is printed among the command's data, and what it raises is told once."""
        try:
            with redirect_stdout(io.StringIO()), _quiet():
                yield
        except Exception as error:  # of a library, a network, a server: no run ends by it
            self._begun.pop(name, None)
            self._warn(
                f"train.report_to: {name} failed and is told nothing more by this process: "
                f"{first_line(error).rstrip('.') or type(error).__name__}. Training goes on"
            )


def new_tracker(name: str) -> Tracker:
    """A tracker by its name in `train.report_to`."""
    if name == "tensorboard":
        from align_cli.tracking.on_tensorboard import TensorBoard

        return TensorBoard()
    if name == "wandb":
        from align_cli.tracking.on_wandb import WeightsAndBiases

        return WeightsAndBiases()
    if name == "trackio":
        from align_cli.tracking.on_trackio import Trackio

        return Trackio()
    from align_cli.tracking.on_mlflow import MLflow

    return MLflow()


@contextmanager
def _quiet() -> Iterator[None]:
    """Trackers' own loggers say what goes wrong, and nothing else."""
    before = {name: logging.getLogger(name).level for name in LOUD}
    try:
        for name in before:
            logging.getLogger(name).setLevel(logging.WARNING)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
