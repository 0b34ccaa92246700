"""What `align train` would refuse, and what it would do, found out without doing it: no weights, nothing written."""

from __future__ import annotations

from typing import NamedTuple

from align_cli.errors import all_at_once
from align_cli.recipe import Recipe
from align_cli.run.folder import RunFolder
from align_cli.run.folder.lineage import Origin
from align_cli.run.fork import check_fork, interrupted_fork
from align_cli.run.loaded import Loaded
from align_cli.run.needed import check_origin_undamaged, check_undamaged
from align_cli.run.opening import check_inputs, outlook
from align_cli.run.plan import plan_steps
from align_cli.run.results import Results
from align_cli.run.standing import refuse_stopped, remaining_steps
from align_cli.stages.inputs import Inputs


class Foresight(NamedTuple):
    """What a run that is begun now would do.

    Args:
        outlook: where it would begin or go on, one line each.
        notes: what a user should know of its inputs.
        inputs: its rows, which were read for it.
    """

    outlook: list[str]
    notes: list[str]
    inputs: Inputs


def foresee(recipe: Recipe, origin: Origin | None = None) -> Foresight:
    """Check all that a run checks before its first step.

    Configs and tokenizers are read, labelers are imported and called on two prompts, data files are read to their ends,
    optimizer, schedule and trackers are made: what `align train` itself does first. Of a run that is there, what
    would be read of it is compared with its checksums.

    Args:
        recipe: the whole recipe.
        origin: what the run would be forked from; None for a run of its own, or for what its folder says.

    Raises:
        AlignError: for everything that a run would be refused for.
    """
    folder, notes = RunFolder(recipe.output_dir), list[str]()
    results = Results(recipe, folder)
    loaded = Loaded(recipe, results, notes.append)
    found = Foresight([], notes, loaded.inputs)
    all_at_once(
        lambda: found.outlook.extend(_outlook(recipe, folder, results, origin)),
        lambda: check_inputs(plan_steps(recipe), loaded),
    )
    return found


def _outlook(recipe: Recipe, folder: RunFolder, results: Results, asked: Origin | None) -> list[str]:
    folder.check_usable()
    plan, origin = plan_steps(recipe), asked or interrupted_fork(folder)
    if origin is not None:
        check_fork(recipe, origin, folder)
    if folder.set_aside.is_there:
        return [f"{folder.path}: a run was put aside here when a process was killed; it is seen to first"]
    if origin is not None and not folder.exists:
        check_origin_undamaged(origin)
        first = next(step for step in plan if step.round > origin.round)
        return [f"{folder.path}: forks from {origin.run} after round {origin.round}, and begins with {first}"]
    steps = remaining_steps(folder, recipe, plan)
    if 0 < len(steps) < len(plan):
        refuse_stopped(folder, recipe, plan[-len(steps) - 1], steps[0])
    check_undamaged(results, plan, steps)
    return outlook(folder, recipe, plan, steps)
