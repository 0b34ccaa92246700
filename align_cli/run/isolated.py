"""Each step in a process of its own: what it had in memory goes with it, and the next one begins with nothing.

The process of the run holds the lock, plans, and talks to the user; the step's process does the rest as `step` has it,
from the run's folder, and tells what happens through a pipe. Every step reads its artifacts from the folder in any
case, so the run ends in the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from align_cli.artifacts.records import Evaluation
from align_cli.launch.crew import crew_of
from align_cli.recipe import Recipe
from align_cli.run.apart import Apart, Teller, do_apart
from align_cli.run.at_work import ToldProgress
from align_cli.run.folder import RunFolder
from align_cli.run.loaded import Loaded
from align_cli.run.plan import Step
from align_cli.run.results import Results
from align_cli.run.step import StepRunner
from align_cli.run.tracked import tracked
from align_cli.stages.base import EVALUATION, Artifact, Progress


@dataclass
class IsolatedRunner:
    """Carries out steps in a run's folder, which the caller has locked, in other processes.

    Args:
        recipe: what to do.
        folder: where artifacts lie.
        results: what the rounds so far have to show.
        note: told what a user should know.
    """

    recipe: Recipe
    folder: RunFolder
    results: Results
    note: Callable[[str], None]

    def carry_out(self, step: Step, progress: Progress) -> Evaluation | None:
        """Do one step; see `StepRunner.carry_out`.

        Raises:
            AlignError: what the step's process raises, or if it is killed.
        """
        with ToldProgress(step, progress, self.folder.lock.tell) as at:
            step_apart(self.recipe, step, "launch.isolate").listen(hearing(at, self.note))
        self.folder.manifests.forget()
        is_evaluated = self.results.holds(Artifact(step.round, EVALUATION))
        return self.results.evaluation(step.round) if step.stage == "evaluate" and is_evaluated else None


def step_apart(recipe: Recipe, step: Step, key: str, *, is_beside: bool = False) -> Apart:
    """A process that carries out one step of a run, whose folder this one has locked.

    Args:
        recipe: the whole recipe.
        step: which step.
        key: the recipe key by which it has a process of its own, for errors.
        is_beside: whether this process is at work on another step meanwhile, with all others that there are.
    """
    return Apart("align_cli.run.isolated", (recipe, step, is_beside), what=str(step), where=key)


def hearing(progress: Progress, note: Callable[[str], None]) -> Callable[..., None]:
    """What passes on the words of a step's process."""

    def hear(what: str, *values: Any) -> None:
        (note if what == "note" else getattr(progress, what))(*values)

    return hear


def _carry_out(teller: Teller, recipe: Recipe, step: Step, is_beside: bool) -> None:
    """The step's process."""
    crew = None if is_beside else crew_of(recipe, teller.note, teller.end_with, None)
    folder = RunFolder(recipe.output_dir)
    results = Results(recipe, folder)
    with crew if crew is not None else nullcontext() as entered:
        loaded = Loaded(recipe, results, teller.note, crew=entered)
        with nullcontext() if is_beside else tracked(recipe, results, teller.note) as tracking:
            runner = StepRunner(recipe, folder, loaded, results, tracking, is_beside=is_beside)
            runner.carry_out(step, teller)


if __name__ == "__main__":
    do_apart(_carry_out)
