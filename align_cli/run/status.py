"""Where a run stands, and whether a process is at work on it: read from its folder; nothing is locked or changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from align_cli.artifacts.records import Evaluation
from align_cli.errors import Fault, GuardError
from align_cli.recipe import Recipe
from align_cli.report.labels import labels_by_round
from align_cli.run.at_work import AtWork, read_at_work
from align_cli.run.folder import RunFolder
from align_cli.run.folder.lock import Holder
from align_cli.run.plan import Step, plan_steps
from align_cli.run.results import Results
from align_cli.run.standing import refuse_stopped

RUNNING, ELSEWHERE, INTERRUPTED, STOPPED, FINISHED = "running", "elsewhere", "interrupted", "stopped", "finished"

LONGEST_SECONDS = 1e9
LATEST_ROUNDS = 3
"""How many rounds tell how long a stage takes."""


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Args:
        planned: every step of the recipe.
        finished: those that are in a manifest.
        evaluations: of all rounds so far.
        ledger: every event.
        lineage: the run and the round that it was forked from; None for a run of its own.
        guards: what guards saw, one sentence a finding.
        state: `running`; `elsewhere`: a process of another machine holds it, or was killed there; `interrupted`, also
            before it has begun; `stopped` by a guard; `finished`.
        holder: who holds it, or held it when it was killed.
        at_work: how far the first step that is not finished is, or was; None where nobody has begun it. Of two
            that are at work at once, one is beside the other.
        stopped_by: what the guard says that stopped it.
        goes_on_here: whether its recipe's `output_dir`, from the current folder, is the run's.
    """

    planned: list[Step]
    finished: list[Step]
    evaluations: list[Evaluation]
    ledger: list[dict[str, Any]]
    lineage: dict[str, Any] | None
    guards: list[str]
    state: str
    holder: Holder | None
    at_work: AtWork | None
    stopped_by: Fault | None
    goes_on_here: bool

    @property
    def next_step(self) -> Step | str:
        """The first step that is not finished, or `none`."""
        return next(iter(_remaining(self.planned, self.finished)), "none")

    def seconds_left_in_step(self, now: float) -> float | None:
        """Until the step at work is done; None where that is not known, or nobody is at work."""
        if self.state != RUNNING or self.at_work is None:
            return None
        guesses = []
        for at_work in filter(None, (self.at_work, self.at_work.beside)):
            age, left = max(now - at_work.time, 0.0), at_work.seconds_left
            known = _durations(self.ledger).get(at_work.stage) if at_work.round else None
            # A stage may count one thing after the other: what it counts now is the least that is left.
            guesses += [] if left is None else [max(left - age, 0.0)]
            guesses += [] if known is None else [max(known - at_work.seconds - age, 0.0)]
        return max(guesses, default=None)

    def seconds_left(self, now: float) -> float | None:
        """Until the run is finished; None where that is not known, as in the first rounds, or nobody is at work."""
        remaining, durations = _remaining(self.planned, self.finished), _durations(self.ledger)
        begun = [] if self.at_work is None else [one.step for one in (self.at_work, self.at_work.beside) if one]
        waiting = [step for step in remaining if step not in begun and step.stage not in _beside(self.ledger)]
        found = [durations.get(step.stage) if step.round else None for step in waiting]
        found += [self.seconds_left_in_step(now)] if begun else []
        known = [seconds for seconds in found if seconds is not None]
        return sum(known) if self.state == RUNNING and len(known) == len(found) else None

    def to_dict(self) -> dict[str, Any]:
        """The status as a JSON object."""
        return {
            "planned": [step._asdict() for step in self.planned],
            "finished": [step._asdict() for step in self.finished],
            "evaluations": [evaluation.to_dict() for evaluation in self.evaluations],
            "labels": labels_by_round(self.ledger),
            "ledger": self.ledger,
            "lineage": self.lineage,
            "guards": self.guards,
            "state": self.state,
            "holder": None if self.holder is None else self.holder.to_dict(),
            "at_work": None if self.at_work is None else asdict(self.at_work),
            "seconds_left_in_step": self.seconds_left_in_step(time.time()),
            "seconds_left": self.seconds_left(time.time()),
        }


def run_status(path: Path) -> RunStatus:
    """The status of the run in a folder.

    Raises:
        AlignError: if there is none, or if what it says of itself is damaged.
    """
    folder = RunFolder(path)
    return status_of(Results(folder.recipe(), folder))


def status_of(results: Results) -> RunStatus:
    """The status of a run that is open.

    Args:
        results: of the run, of which nothing has been read yet.

    Raises:
        AlignError: if what it says of itself is damaged.
    """
    folder, recipe = results.folder, results.recipe
    # First the lock: what a process finishes meanwhile is not taken for what it is at.
    holder, at_work = folder.lock.holder, read_at_work(folder.lock.told)
    steps, origin = plan_steps(recipe), folder.lineage.origin
    finished = [
        step for step in steps if folder.lineage.inherits(step.round) or folder.manifests.finished(step) is not None
    ]
    following = next(iter(_remaining(steps, finished)), None)
    stopped_by = _guards_stop(folder, recipe, steps, following)
    return RunStatus(
        steps,
        finished,
        results.evaluations(),
        folder.ledger.events(),
        None if origin is None else {"run": str(origin.run), "round": origin.round},
        _guards(folder, steps),
        _state(holder, following, stopped_by),
        holder,
        _of_unfinished(at_work, following, finished),
        stopped_by,
        Path(recipe.output_dir).resolve() == folder.path.resolve(),
    )


def _of_unfinished(at_work: AtWork | None, following: Step | None, finished: Sequence[Step]) -> AtWork | None:
    """What a process has told, as far as it is of steps that are not finished; None where none is the following one."""
    told = [one for one in (at_work, at_work and at_work.beside) if one is not None and one.step not in finished]
    if following not in [one.step for one in told]:
        return None
    return replace(told[0], beside=told[1] if len(told) > 1 else None)


def _beside(ledger: Sequence[Mapping[str, Any]]) -> set[str]:
    """Stages that were carried out beside another one the last time, which is what then took the time."""
    latest = {event["stage"]: event for event in ledger if event["event"] == "start" and event["round"] > 1}
    return {stage for stage, event in latest.items() if event.get("beside") is True}


def _remaining(planned: Sequence[Step], finished: Sequence[Step]) -> list[Step]:
    done = set(finished)
    return [step for step in planned if step not in done]


def _state(holder: Holder | None, following: Step | None, stopped_by: Fault | None) -> str:
    lives = holder is not None and holder.lives
    if lives:
        return RUNNING
    if following is None:
        return FINISHED
    if lives is None:
        return ELSEWHERE
    return INTERRUPTED if stopped_by is None else STOPPED


def _guards_stop(folder: RunFolder, recipe: Recipe, steps: Sequence[Step], following: Step | None) -> Fault | None:
    if following is None:
        return None
    try:
        before = steps.index(following) - 1
        refuse_stopped(folder, recipe, steps[before] if before >= 0 else None, following)
    except GuardError as error:
        return error.faults[0]
    return None


def _durations(ledger: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How long each stage takes, by its latest rounds; round 0 has less to do, and tells nothing."""
    found: dict[str, list[float]] = {}
    for event in ledger:
        # An event that was edited by hand may hold any number, or none.
        if event["event"] == "finish" and event["round"] > 0 and 0 <= event["seconds"] < LONGEST_SECONDS:
            found.setdefault(event["stage"], []).append(float(event["seconds"]))
    return {stage: fmean(seconds[-LATEST_ROUNDS:]) for stage, seconds in found.items()}


def _guards(folder: RunFolder, steps: list[Step]) -> list[str]:
    """What guards saw in each round that is over, and where that led."""
    found = []
    for step in steps:
        record = folder.manifests.finished(step) or {}
        found += [
            f"round {step.round}: guard {finding['guard']} ({finding['action']}): {finding['message']}"
            for finding in record.get("guards", [])
        ]
        if "continues_from" in record:
            found.append(f"round {step.round}: rolled back to the policy of round {record['continues_from']}")
    return found
