"""All rounds of a run: take up the plan after the last finished step, and carry out the rest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from align_cli.artifacts.records import Evaluation
from align_cli.errors import RunError
from align_cli.recipe import Recipe, dump
from align_cli.run.fingerprints import changes, step_inputs
from align_cli.run.folder import RunFolder
from align_cli.run.fork import Origin, check_fork, fork, inherited, interrupted_fork
from align_cli.run.plan import Step, plan_steps
from align_cli.run.session import Session
from align_cli.run.steps import Steps, evaluations, read_evaluation, upstream
from align_cli.run.work import remove_other_work
from align_cli.stages import Progress
from align_cli.stages.sft import makes_policy


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


def align_rounds(
    recipe: Recipe, reporter: Reporter, *, restart: bool = False, origin: Origin | None = None
) -> list[Evaluation]:
    """Run every step of a recipe that is not finished yet.

    Args:
        recipe: what to do; `rounds` may be higher than when the run was begun.
        reporter: shown what happens.
        restart: remove a run that is there, and begin anew.
        origin: begin with the rounds of another run.

    Returns:
        The evaluations of all rounds, by round.

    Raises:
        AlignError: for faults of the user's; nothing on disk has changed where it was raised before the first step.
    """
    folder = RunFolder(recipe.output_dir)
    folder.check_usable()
    plan = plan_steps(recipe)
    if origin is None and not restart:
        origin = interrupted_fork(folder)
    if origin is not None:
        check_fork(recipe, origin, folder, restart=restart)
    if not restart and (origin is None or folder.exists):
        remaining = plan[len(finished_steps(folder, recipe, plan)) :]
        if not remaining:
            evaluations(folder, recipe)  # what is damaged is told before anything is said to be finished
            if folder.work_path.exists():  # its process was killed between the last manifest and the removal
                with folder.locked():
                    remove_other_work(folder.work_path, None)
            reporter.note(f"{folder.path} is finished: {_counted(recipe.rounds)}; raise rounds= to go on")
            return _show_evaluations(folder, recipe, reporter)
    session = Session(recipe)
    session.check_inputs()
    for shortage in session.shortages():
        reporter.note(f"note: {shortage}")
    with folder.locked():
        if restart:
            folder.set_aside()
        try:
            if origin is not None:
                fork(origin, folder)
                folder.begin(dump(recipe), recipe.seed)
            remaining = plan[len(finished_steps(folder, recipe, plan)) :]
            _announce(folder, plan, remaining, reporter)
            folder.begin(dump(recipe), recipe.seed)
            _show_evaluations(folder, recipe, reporter)
            remove_other_work(folder.work_path, remaining[0])
            steps = Steps(recipe, folder, session, reporter.note)
            for step in remaining:
                _check_guards(folder, recipe, plan, step)
                with reporter.stage(step.round, step.stage) as progress:
                    session.progress = progress
                    steps.carry_out(step)
                folder.drop_set_aside()
                if step.stage == "evaluate":
                    reporter.evaluated(read_evaluation(folder, step.round))
        except Exception:
            folder.bring_back()
            raise
    return evaluations(folder, recipe)


def finished_steps(folder: RunFolder, recipe: Recipe, steps: Sequence[Step]) -> list[Step]:
    """The steps at the plan's beginning that are finished and made from what the recipe says now.

    Raises:
        RunError: if a finished step was made from something else; names every key that changed.
    """
    finished: list[Step] = []
    for step in steps:
        if inherited(folder, step):
            finished.append(step)
            continue
        record = folder.finished(step)
        if record is None:
            break
        found = changes(record["inputs"], step_inputs(recipe, step, upstream(folder, recipe, step)))
        if found:
            raise RunError(
                f"this folder holds another run: since {step} was finished, " + "; ".join(found),
                where=str(folder.path),
                hint="choose another output_dir for the new settings, put the old ones back (only rounds may be "
                f"raised), or begin anew with {_restart(folder)}, which removes this run",
            )
        finished.append(step)
    return finished


def _check_guards(folder: RunFolder, recipe: Recipe, plan: Sequence[Step], step: Step) -> None:
    """Refuse to go on from a round that a guard stopped, until the recipe says otherwise."""
    index = plan.index(step)
    record = folder.finished(plan[index - 1]) if index else None
    for finding in record.get("guards", []) if record else []:
        guard = getattr(recipe.guards, finding["guard"], None)
        if guard is not None and guard.action == "stop":
            name = f"guards.{finding['guard']}"
            raise RunError(
                f"stopped before {step}: {finding['message']}",
                where=name,
                hint=f"set {name}.action to warn to go on all the same, or fork another run from an earlier round "
                "(--from)",
            )


def make_initial_policy_once(recipe: Recipe, reporter: Reporter) -> RunFolder:
    """For single stages: the run's folder, with the initial policy in it where the recipe has one made.

    The first command that needs the initial policy makes it, as `align train` would; the others find it there.

    Raises:
        RunError: if the folder holds the initial policy of other settings.
    """
    folder = RunFolder(recipe.output_dir)
    folder.check_usable()
    if interrupted_fork(folder) is not None:
        raise RunError(
            "a fork was interrupted in this folder", where=str(folder.path), hint="`align train` goes on with it"
        )
    first = Step(0, "sft")
    if makes_policy(recipe) and not finished_steps(folder, recipe, [first]):
        session = Session(recipe)
        with folder.locked():
            folder.begin(dump(recipe), recipe.seed)
            with reporter.stage(0, "sft") as progress:
                session.progress = progress
                Steps(recipe, folder, session).carry_out(first)
    return folder


def _restart(folder: RunFolder) -> str:
    lineage = folder.lineage()
    return "--restart" if lineage is None else f"--restart --from {lineage['run']}@{lineage['round']}"


def _counted(rounds: int) -> str:
    return "1 round" if rounds == 1 else f"{rounds} rounds"


def _announce(folder: RunFolder, steps: Sequence[Step], remaining: Sequence[Step], reporter: Reporter) -> None:
    num_finished = len(steps) - len(remaining)
    lineage = folder.lineage()
    if lineage is not None:
        reporter.note(f"{folder.path}: forked from {lineage['run']} after round {lineage['round']}")
    if num_finished:
        reporter.note(f"{folder.path}: going on after {steps[num_finished - 1]}, with {remaining[0]}")
    else:
        reporter.note(f"{folder.path}: begins with {remaining[0]}")


def _show_evaluations(folder: RunFolder, recipe: Recipe, reporter: Reporter) -> list[Evaluation]:
    found = evaluations(folder, recipe)
    for evaluation in found:
        reporter.evaluated(evaluation)
    return found
