"""What the trackers of `train.report_to` are told of a run: every step as it is done, every round when it is evaluated.

What a tracker does not have yet of finished rounds, by its own word, it is told from their artifacts: after a kill, in
a fork, or where it was named later. Only the process that leads a run tells them, and nothing that they do changes it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align_cli.artifacts.store import read_json, write_json
from align_cli.errors import AlignError, DataError, first_line
from align_cli.recipe import Recipe, resolved
from align_cli.recipe.resolve import to_yaml
from align_cli.redaction import without_secrets
from align_cli.run.folder.layout import TRACKING, Layout
from align_cli.run.loaded import tracking_folder
from align_cli.run.results import Results
from align_cli.tracking.base import TrackedRun
from align_cli.tracking.points import end_point, step_point
from align_cli.tracking.told import Trackers

IDENTITY = "run.json"
PASSED = ("trackio_space_id", "trackio_bucket_id")


class TrackedRounds:
    """Tells trackers of a run's rounds.

    Args:
        recipe: the whole recipe.
        results: what the rounds so far have to show.
        trackers: who is told.
        warn: told of artifacts that cannot be read.
    """

    def __init__(self, recipe: Recipe, results: Results, trackers: Trackers, warn: Callable[[str], None]) -> None:
        self._recipe, self._results, self._trackers, self._warn = recipe, results, trackers, warn
        self._num_steps: dict[int, int] = {}
        self._evaluated: set[int] = set()

    def catch_up(self) -> None:
        """Tell what finished stages have to show, as far as trackers do not have it."""
        for number in self._results.folder.manifests.rounds():
            if number > self._recipe.rounds or number in self._evaluated:
                continue
            try:
                self._tell_round(number)
            except AlignError as error:  # who needs the artifact says more of it
                self._evaluated.add(number)
                self._warn(f"train.report_to: trackers are not told all of round {number}: {first_line(error)}")

    def _tell_round(self, number: int) -> None:
        if not self._num_steps.get(number):
            records = self._results.steps(number) if number else []  # a warm start has an axis of its own
            for step, record in enumerate(records, start=1):
                self.of_round(number)(step, record)
            self._num_steps[number] = len(records)
        evaluation = self._results.evaluation(number)
        if evaluation is not None:
            samples = self._results.samples(number)
            self._trackers.tell(end_point(self._steps_before(number + 1), evaluation, samples))
            self._evaluated.add(number)

    def of_round(self, number: int) -> Callable[[int, Mapping[str, float]], None]:
        """Told the figures of a round's steps."""

        def tell(step: int, record: Mapping[str, float]) -> None:
            self._trackers.tell(step_point(number, self._steps_before(number) + step, record))

        return tell

    def _steps_before(self, number: int) -> int:
        return sum(count for one, count in self._num_steps.items() if one < number)


@contextmanager
def tracked(recipe: Recipe, results: Results, note: Callable[[str], None]) -> Iterator[TrackedRounds | None]:
    """The recipe's trackers, which are told of the end; None where it names none."""
    if not recipe.train.trackers:
        yield None
        return
    trackers = Trackers(recipe.train.trackers, lambda: _tracked_run(recipe), note)
    rounds, is_finished = TrackedRounds(recipe, results, trackers, note), False
    try:
        yield rounds
        is_finished = True
    finally:
        trackers.end(is_finished=is_finished)


def name_of(folder: Path) -> str:
    """What people see of a run without a `train.run_name`: its folder's name, in a study with the combination's."""
    return f"{folder.parent.name}/{folder.name}" if re.fullmatch(r"seed-\d+", folder.name) else folder.name


def _tracked_run(recipe: Recipe) -> TrackedRun:
    passed = recipe.train.training_arguments
    config = _without_secrets(resolved(recipe))
    return TrackedRun(
        id=_identity(Layout(Path(recipe.output_dir)).folder(TRACKING) / IDENTITY),
        name=str(passed.get("run_name") or name_of(Path(recipe.output_dir).resolve())),
        project=passed.get("project"),
        folder=tracking_folder(recipe),
        config=config,
        recipe=to_yaml(config),
        passed={key: passed[key] for key in PASSED if key in passed},
    )


def _without_secrets(value: Any) -> Any:
    """A tree of settings, without what must not be told anybody."""
    if isinstance(value, Mapping):
        return {name: _without_secrets(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(child) for child in value]
    return without_secrets(value) if isinstance(value, str) else value


def _identity(path: Path) -> str:
    """The run's own id, made once; of a file that says nothing sensible, a new one."""
    try:
        found = read_json(path)["id"]
        if re.fullmatch(r"[0-9a-f]{8}", found):
            return str(found)
    except (DataError, KeyError, TypeError):
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    made = uuid.uuid4().hex[:8]
    write_json(path, {"id": made})
    return made
