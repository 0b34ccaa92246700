"""A recipe's hardest parts first: two steps of every stage, with the real model and the longest rows.

What would fail after an hour, because memory, disk, a template or a labeler does not hold, fails here. It is an
ordinary run of one round, of the user's recipe with other numbers and a few rows of its data, in a folder that goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align_cli.recipe import Recipe, load_recipe
from align_cli.run.folder import RunFolder
from align_cli.run.loaded import Loaded
from align_cli.run.loop import align_rounds
from align_cli.run.opening import Reporter, check_inputs
from align_cli.run.plan import plan_steps
from align_cli.run.results import Results
from align_cli.run.small import (
    FilesRows,
    longest_reward_pairs,
    quoted,
    rows_in_files,
    say_anything,
    scratch_beside,
    small_overrides,
    stages_of,
)
from align_cli.stages.longest import longest_rows

STEPS = 2
"""Of every stage: in the second, what the first has left is in memory too, as an optimizer's moments."""


def smoke(path: Path, overrides: Sequence[str], reporter: Reporter) -> list[dict[str, Any]]:
    """Run it, beside the recipe's own folder, and leave nothing behind.

    Args:
        path: the recipe's file.
        overrides: as for `load_recipe`.
        reporter: shown what happens.

    Returns:
        The run's events, with what each stage took.

    Raises:
        AlignError: for whatever the run itself would be refused for, or fails of.
    """
    recipe = load_recipe(path, overrides)
    with scratch_beside(recipe) as scratch:
        run = scratch / "run"
        rows = rows_in_files(_longest_rows(recipe, reporter), scratch)
        small = load_recipe(path, [*overrides, f"output_dir={quoted(run)}", *small_overrides(recipe, STEPS), *rows])
        align_rounds(small, reporter, asker=say_anything)
        reporter.note("every stage went through two steps; nothing of it is kept")
        return RunFolder(run).ledger.events()


def _longest_rows(recipe: Recipe, reporter: Reporter) -> FilesRows:
    """The longest rows that the stages read, by key; all rows are checked, as a run would."""
    plan = plan_steps(recipe)
    loaded = Loaded(recipe, Results(recipe, RunFolder(recipe.output_dir)), reporter.note)
    check_inputs(plan, loaded)
    return {
        **longest_rows(recipe, loaded.inputs, stages_of(plan), STEPS),
        **longest_reward_pairs(recipe, loaded, STEPS),
    }
