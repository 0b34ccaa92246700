"""Where a study stands, run by run: read from its folder; nothing is locked or changed, and no recipe is checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from align_cli.errors import AlignError
from align_cli.run.folder import RunFolder
from align_cli.run.folder.lock import Holder
from align_cli.run.status import FINISHED, INTERRUPTED, RUNNING, RunStatus, run_status
from align_cli.study.definition import RunOfStudy, combinations_of
from align_cli.study.folder import STUDY, StudyFolder, read_study
from align_cli.study.values import Axis

NOT_BEGUN, DAMAGED = "not begun", "damaged"


@dataclass(frozen=True)
class RunStanding:
    """Where one run of a study stands.

    Args:
        name: its folder below `runs/`.
        state: as of a run, or `not begun`, or `damaged`.
        status: of the run; None where it has not begun, or cannot be read.
        why: it cannot be read.
    """

    name: str
    state: str
    status: RunStatus | None = None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object; the run's own status is `align status RUN --json`."""
        if self.status is None:
            return {"run": self.name, "state": self.state, "why": self.why}
        latest = self.status.evaluations[-1:]
        return {
            "run": self.name,
            "state": self.state,
            "finished": len(self.status.finished),
            "planned": len(self.status.planned),
            "evaluation": latest[0].to_dict() if latest else None,
        }


@dataclass(frozen=True)
class StudyStatus:
    """Where a study stands.

    Args:
        runs: all that were asked for last, seed by seed.
        holder: the process that is at work on it; None without any.
    """

    runs: list[RunStanding]
    holder: Holder | None

    @property
    def state(self) -> str:
        """`running`, `finished`, or `interrupted`."""
        if self.holder is not None:
            return RUNNING
        return FINISHED if all(run.state == FINISHED for run in self.runs) else INTERRUPTED

    @property
    def counts(self) -> dict[str, int]:
        """How many runs are in which state, the most frequent one first."""
        return dict(Counter(run.state for run in self.runs).most_common())

    @property
    def seconds_left(self) -> float | None:
        """Until all are finished, if they take as long as those that are; None where none is, or no run is at work."""
        took = [_seconds(run.status) for run in self.runs if run.status is not None and run.state == FINISHED]
        at_once = self.counts.get(RUNNING, 0)
        if not took or not at_once or self.holder is None:
            return None
        spent = sum(_seconds(run.status) for run in self.runs if run.status is not None and run.state != FINISHED)
        return max(fmean(took) * (len(self.runs) - len(took)) - spent, 0.0) / at_once

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        holder = None if self.holder is None else self.holder._asdict()
        told = [run.to_dict() for run in self.runs]
        return {"state": self.state, "holder": holder, "seconds_left": self.seconds_left, "runs": told}


def study_status(path: Path) -> StudyStatus | None:
    """The status of the study in a folder; None where there is none.

    Raises:
        RunError: if what says what is studied is damaged.
    """
    if not (path / STUDY).is_file():
        return None
    folder, told = StudyFolder(path), read_study(path / STUDY)
    axes = [Axis(str(key), tuple(map(str, values))) for key, values in told["over"].items()]
    runs = [RunOfStudy(combination, int(seed)) for seed in told["seeds"] for combination in combinations_of(axes)]
    holder = folder.lock.holder
    return StudyStatus(
        [_standing(run.name, folder.run(run)) for run in runs], holder if holder is not None and holder.lives else None
    )


def _standing(name: str, path: Path) -> RunStanding:
    if not RunFolder(path).exists:
        return RunStanding(name, NOT_BEGUN)
    try:
        status = run_status(path)
    except AlignError as error:
        return RunStanding(name, DAMAGED, why=error.faults[0].what)
    return RunStanding(name, status.state, status)


def _seconds(status: RunStatus) -> float:
    """How long its finished stages took."""
    return sum(float(event["seconds"]) for event in status.ledger if event["event"] == "finish")
