"""What comes before the first step of a run, and in its place where nothing is left to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Protocol

from align_cli import stages
from align_cli.artifacts.records import Evaluation
from align_cli.errors import AlignError, all_at_once, counted
from align_cli.recipe import Recipe, differences, resolved
from align_cli.run.fingerprints import lies_below
from align_cli.run.folder import RunFolder
from align_cli.run.folder.lineage import Origin
from align_cli.run.fork import check_fork, interrupted_fork
from align_cli.run.loaded import Loaded
from align_cli.run.plan import Step
from align_cli.run.results import Results
from align_cli.run.tidy import let_go, superfluous
from align_cli.stages.base import CHECKPOINT, Artifact, Progress
from align_cli.stages.rows import check_rows

CHANGEABLE = ("rounds", "output_dir", "guards", "checkpoints", "num_threads", "launch")
"""Keys that may change under a run."""


class Reporter(Protocol):
    """Told what a run does; shows it, or does not."""

    def stage(self, round_number: int, stage: str) -> AbstractContextManager[Progress]:
        """A stage begins; the context ends with it."""
        ...

    def note(self, text: str) -> None:
        """One line for the user."""
        ...

    def evaluated(self, evaluation: Evaluation) -> None:
        """A round's evaluation is there, new or from before."""
        ...


def origin_of(folder: RunFolder, recipe: Recipe, *, asked: Origin | None, restart: bool) -> Origin | None:
    """Where the run forks from: what is asked for, or what a killed process was at; None for a run of its own.

    A run that a killed `--restart` put aside is in its place again afterwards, unless the new one has begun and the
    recipe is the new one's.

    Raises:
        RunError: if the folder holds something else, or if what is asked for cannot be forked.
    """
    folder.check_usable()
    if folder.set_aside.is_there:
        with folder.locked():
            if not restart and folder.set_aside.is_there and not _is_begun_with(folder, recipe):
                folder.bring_back()
    origin = interrupted_fork(folder) if asked is None and not restart else asked
    if origin is not None:
        check_fork(recipe, origin, folder, restart=restart)
    return origin


def _is_begun_with(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether the run that has begun here, and has finished nothing, is this recipe's."""
    changed = differences(resolved(folder.recipe()), resolved(recipe))
    return all(lies_below(change.key, CHANGEABLE) for change in changed)


def check_inputs(plan: Sequence[Step], loaded: Loaded) -> None:
    """Look at everything that can be wrong before the first model is loaded: so that a fault changes nothing on disk.

    Raises:
        AlignError: for every input that cannot be used, and for all rows that the policy cannot read.
    """
    planned = {step.stage for step in plan}
    due = [stage for stage in stages.STAGES if stage.name in planned]
    remarks: list[str] = []
    all_at_once(
        *(partial(stage.check, loaded.recipe, loaded) for stage in due),
        lambda: remarks.extend(check_rows(loaded.recipe, loaded.inputs, due)),
    )
    for shortage in (text for stage in due for text in stage.shortages(loaded.recipe, loaded.inputs)):
        loaded.note(f"note: {shortage}")
    for remark in remarks:
        loaded.note(remark)


@contextmanager
def making_room(folder: RunFolder, restart: bool) -> Iterator[None]:
    """Put the run that is there aside if asked to, and bring it back if the new one does not get through a step."""
    if restart:
        folder.put_aside()
    try:
        yield
    except Exception:
        folder.bring_back()
        raise


def already_finished(folder: RunFolder, recipe: Recipe, plan: Sequence[Step], reporter: Reporter) -> list[Evaluation]:
    """Say so, and give what there is; what a killed process left after the last manifest goes."""
    results = Results(recipe, folder)
    found = results.evaluations()  # what is damaged is told before anything is said to be finished
    if not folder.lock.is_held and (folder.has_work or superfluous(results, folder, plan[-1])):
        with suppress(AlignError), folder.locked():  # another process may be about it, or nobody can write here
            tidy_up(folder, results, plan[-1], [])
    reporter.note(outlook(folder, recipe, plan, [])[-1])
    if not results.is_kept(recipe.rounds) and not results.holds(Artifact(recipe.rounds, CHECKPOINT)):
        reporter.note(
            f"note: round {recipe.rounds} left no checkpoint (checkpoints.every_rounds): it was not the last when it "
            "was trained"
        )
    return found


def tidy_up(folder: RunFolder, results: Results, before: Step | None, left: Sequence[Step]) -> None:
    """Do what a killed process did not come to after the last step that it finished; `left` are those from there."""
    folder.remove_work_but([step for step in left if folder.manifests.finished(step) is None])
    folder.manifests.remove_dropped()
    if before is not None:
        let_go(results, folder, before)


def outlook(folder: RunFolder, recipe: Recipe, plan: Sequence[Step], steps: Sequence[Step]) -> list[str]:
    """Where a run begins or goes on, in words, one line each.

    Args:
        folder: the run's.
        recipe: the whole recipe.
        plan: every step.
        steps: those that are left.
    """
    num_finished, origin = len(plan) - len(steps), folder.lineage.origin
    forked = [f"{folder.path}: forked from {origin.run} after round {origin.round}"] if origin is not None else []
    if not steps:
        rounds = counted(recipe.rounds, "round")
        return [*forked, f"{folder.path} is finished: {rounds}; raise rounds= to go on"]
    if num_finished:
        return [*forked, f"{folder.path}: going on after {plan[num_finished - 1]}, with {steps[0]}"]
    return [*forked, f"{folder.path}: begins with {steps[0]}"]
