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
from align_cli.run.apart import Teller, do_apart, work_apart
from align_cli.run.at_work import ToldProgress
from align_cli.run.folder import RunFolder
from align_cli.run.loaded import Loaded
from align_cli.run.plan import Step
from align_cli.run.results import Results
from align_cli.run.step import StepRunner
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

            def hear(what: str, *values: Any) -> None:
                (self.note if what == "note" else getattr(at, what))(*values)

            work_apart(__name__, (self.recipe, step), hear, what=str(step), where="launch.isolate")
        self.folder.manifests.forget()
        is_evaluated = self.results.holds(Artifact(step.round, EVALUATION))
        return self.results.evaluation(step.round) if step.stage == "evaluate" and is_evaluated else None


def _carry_out(teller: Teller, recipe: Recipe, step: Step) -> None:
    """The step's process."""
    crew = crew_of(recipe, teller.note, teller.end_with, None)
    folder = RunFolder(recipe.output_dir)
    results = Results(recipe, folder)
    with crew if crew is not None else nullcontext() as entered:
        loaded = Loaded(recipe, results, teller.note, crew=entered)
        StepRunner(recipe, folder, loaded, results).carry_out(step, teller)


if __name__ == "__main__":
    do_apart(_carry_out)
