"""Where a study stands, run by run: read from its folder; nothing is locked or changed."""

from __future__ import annotations

import time
from calendar import timegm
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_cli.artifacts.store import read_json
from align_cli.errors import AlignError
from align_cli.recipe import Recipe
from align_cli.run.folder import RunFolder
from align_cli.run.folder.ledger import TIME_FORMAT
from align_cli.run.folder.lock import Holder
from align_cli.run.results import Results
from align_cli.run.status import (
    ELSEWHERE,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    STOPPED,
    RunStatus,
    status_of,
)
from align_cli.study import STUDY
from align_cli.study.definition import RunOfStudy, combinations_of, define
from align_cli.study.folder import RESULTS, StudyFolder, read_study
from align_cli.study.values import Axis

NOT_BEGUN, DAMAGED = "not begun", "damaged"
REMEDY = "run `align study` again with the same arguments: it writes it anew"


@dataclass(frozen=True)
class RunStanding:
    """Where one run of a study stands.

    Args:
        name: its folder below `runs/`.
        state: as of a run, or `not begun`, or `damaged`.
        status: of the run; None where it has not begun, or cannot be read.
        why: it was stopped, or cannot be read; else empty.
    """

    name: str
    state: str
    status: RunStatus | None = None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object; all that is known of the run is what `align status RUN --json` says."""
        told: dict[str, Any] = {"run": self.name, "state": self.state, "why": self.why}
        if self.status is None:
            return told
        latest = self.status.evaluations[-1].to_dict() if self.status.evaluations else None
        counts = {"finished": len(self.status.finished), "planned": len(self.status.planned)}
        return {**told, **counts, "evaluation": latest}


@dataclass(frozen=True)
class StudyStatus:
    """Where a study stands.

    Args:
        runs: all that were asked for last, seed by seed.
        others: how many runs lie in the folder besides.
        holder: who holds the study, or held it when it was killed.
        has_tables: whether its tables are those of what was asked for last.
    """

    runs: list[RunStanding]
    others: int
    holder: Holder | None
    has_tables: bool

    @property
    def state(self) -> str:
        """`running`; `elsewhere`: a process of another machine holds it; `finished`; `stopped` where guards did, and
        nothing else is left; `interrupted`."""
        lives = self.holder is not None and self.holder.lives
        if lives:
            return RUNNING
        left = {run.state for run in self.runs if run.state != FINISHED}
        if lives is None and left:
            return ELSEWHERE
        return FINISHED if not left else STOPPED if left == {STOPPED} else INTERRUPTED

    @property
    def counts(self) -> dict[str, int]:
        """How many runs are in which state, the most frequent one first."""
        return dict(Counter(run.state for run in self.runs).most_common())

    def seconds_left(self, now: float) -> float | None:
        """Until all runs are finished, at the pace at which they were since the process began that is at work.

        None where nobody is at work, or no run has come to its end since.
        """
        began = None if self.holder is None or self.state != RUNNING else self.holder.began
        if began is None:
            return None
        ended = [_ended(run.status.ledger) for run in self.runs if run.status is not None and run.state == FINISHED]
        done = sum(1 for one in ended if one is not None and one >= began)
        left = sum(1 for run in self.runs if run.state not in (FINISHED, STOPPED, DAMAGED))
        return (now - began) / done * left if done else None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "state": self.state,
            "holder": None if self.holder is None else self.holder.to_dict(),
            "seconds_left": self.seconds_left(time.time()),
            "others": self.others,
            "runs": [run.to_dict() for run in self.runs],
        }


class StudyToWatch:
    """A study that is looked at again and again: what is finished is read once.

    Args:
        path: its folder.
    """

    def __init__(self, path: Path) -> None:
        self._folder = StudyFolder(path)
        self._told: dict[str, Any] = {}
        self._runs: list[RunOfStudy] = []
        self._recipes: Mapping[str, Recipe] = {}
        self._finished: dict[str, RunStanding] = {}

    def look(self) -> StudyStatus:
        """How it stands now.

        Raises:
            RunError: if what says what is studied is damaged.
        """
        told = read_study(self._folder.path / STUDY, REMEDY)
        if told != self._told:
            self._ask(told)
        holder = self._folder.lock.holder
        runs = [self._finished.get(run.name) or self._standing(run) for run in self._runs]
        self._finished = {run.name: run for run in runs if run.state == FINISHED}
        return StudyStatus(runs, len(self._folder.others(self._runs)), holder, self._has_tables())

    def _ask(self, told: dict[str, Any]) -> None:
        """Take in what was asked for last; its recipe is looked for where `align study` found it."""
        axes = [Axis(str(key), tuple(map(str, values))) for key, values in told["over"].items()]
        self._told, self._finished, self._recipes = told, {}, {}
        combinations = combinations_of(axes)
        self._runs = [RunOfStudy(combination, seed) for seed in told["seeds"] for combination in combinations]
        with suppress(AlignError):  # from another folder each run's own recipe says what was asked of it
            recipe, overrides = Path(told["recipe"]), [str(text) for text in told["overrides"]]
            self._recipes = define(recipe, overrides, axes, told["seeds"], for_tuning=told["for_tuning"]).recipes

    def _standing(self, run: RunOfStudy) -> RunStanding:
        folder, asked = RunFolder(self._folder.run(run)), self._recipes.get(run.combination.name)
        if not folder.exists:
            return RunStanding(run.name, NOT_BEGUN)
        try:
            own = {"seed": run.seed, "output_dir": str(folder.path)}
            recipe = folder.recipe() if asked is None else asked.model_copy(update=own)
            status = status_of(Results(recipe, folder))
        except AlignError as error:
            return RunStanding(run.name, DAMAGED, why=error.faults[0].what)
        why = "" if status.stopped_by is None else status.stopped_by.what
        return RunStanding(run.name, status.state, status, why)

    def _has_tables(self) -> bool:
        path = self._folder.path / RESULTS
        try:
            found = read_json(path) if path.is_file() else {}
        except AlignError:
            return False
        return all(found.get(key) == value for key, value in self._told.items())


def _ended(ledger: Sequence[Mapping[str, Any]]) -> float | None:
    """When the last step ended; None where the ledger does not say it."""
    try:
        return float(timegm(time.strptime(ledger[-1]["time"], TIME_FORMAT)))
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):
        return None
