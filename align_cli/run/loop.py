"""The whole run: what is finished and still true, the next step, guards, ledger; one step after the other."""

from __future__ import annotations

from align_cli.artifacts.records import Evaluation
from align_cli.labelers.person import Asker
from align_cli.launch.crew import Crew
from align_cli.recipe import Recipe, dump
from align_cli.run.ahead import AheadRunner
from align_cli.run.folder import RunFolder
from align_cli.run.folder.lineage import Origin
from align_cli.run.fork import fork
from align_cli.run.isolated import IsolatedRunner
from align_cli.run.loaded import Loaded
from align_cli.run.opening import Reporter, already_finished, check_inputs, making_room, origin_of, outlook, tidy_up
from align_cli.run.plan import plan_steps
from align_cli.run.results import Results
from align_cli.run.standing import is_still_true, refuse_stopped, remaining_steps
from align_cli.run.step import StepRunner
from align_cli.run.threads import settle_num_threads
from align_cli.run.tracked import tracked


def align_rounds(
    recipe: Recipe,
    reporter: Reporter,
    *,
    restart: bool = False,
    origin: Origin | None = None,
    asker: Asker | None = None,
    crew: Crew | None = None,
) -> list[Evaluation]:
    """Run every step of a recipe that is not finished yet.

    Args:
        recipe: what to do; `rounds` may be higher than when the run was begun.
        reporter: shown what happens.
        restart: remove a run that is there, and begin anew.
        origin: begin with the rounds of another run.
        asker: has people judge pairs; None stops the run where some wait, until `align label` has asked about them.
        crew: the processes that work beside this one; None for none.

    Returns:
        The evaluations of all rounds, by round.

    Raises:
        AlignError: for faults of the user's; nothing on disk has changed where it was raised before the first step.
    """
    folder, plan = RunFolder(recipe.output_dir), plan_steps(recipe)
    origin = origin_of(folder, recipe, asked=origin, restart=restart)
    is_new = restart or (origin is not None and not folder.exists)
    if not is_new and not remaining_steps(folder, recipe, plan):
        return already_finished(folder, recipe, plan, reporter)
    results = Results(recipe, folder)
    loaded = Loaded(recipe, results, reporter.note, asker=asker, crew=crew)
    check_inputs(plan, loaded)
    with folder.locked(), making_room(folder, restart):
        if origin is not None:
            fork(origin, folder)
            folder.begin(dump(recipe), recipe.seed)
        steps = remaining_steps(folder, recipe, plan)
        if not steps:  # another process has finished it meanwhile
            return already_finished(folder, recipe, plan, reporter)
        for line in outlook(folder, recipe, plan, steps):
            reporter.note(line)
        folder.begin(dump(recipe), recipe.seed)
        settle_num_threads(folder, recipe, steps[0].round, reporter.note)
        before = plan[-len(steps) - 1] if len(steps) < len(plan) else None
        tidy_up(folder, results, before, steps)
        for known in results.evaluations():
            reporter.evaluated(known)
        isolated = IsolatedRunner(recipe, folder, results, reporter.note) if recipe.launch.isolate else None
        with tracked(recipe, results, reporter.note) as tracking:
            in_process = StepRunner(recipe, folder, loaded, results, tracking)
            ahead = AheadRunner(in_process, reporter)
            for step in steps:
                if is_still_true(folder, recipe, step):
                    before = step
                    continue
                refuse_stopped(folder, recipe, before, step)
                if ahead.takes(step):
                    continue
                with ahead.beside() as watched, reporter.stage(step.round, step.stage) as progress:
                    evaluation = (isolated or in_process).carry_out(step, watched(progress))
                folder.set_aside.drop()
                if evaluation is not None:
                    reporter.evaluated(evaluation)
                before = step
    return results.evaluations()
