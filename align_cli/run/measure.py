"""What the stages of a recipe take on this machine: short pieces of each, measured in a process of its own.

A small run in a folder that goes: the model, the shapes and the labelers of the recipe, a few rows of its data. Its
first round warms up what a process loads once; the second, which is longer where the work is quick, tells the pace. A
warm start goes on for a while, since the lengths of responses, and so the time of what follows, depend on it. Of a run
that has begun, the newest policy is measured. Nothing is written to the run's own folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from align_cli.models.memory import PeakMemory
from align_cli.recipe import Recipe, dump, load_recipe
from align_cli.report.twin import report_twin
from align_cli.run.apart import Apart, Teller, do_apart
from align_cli.run.folder import RunFolder
from align_cli.run.folder.layout import REPORT, REPORT_DATA
from align_cli.run.loaded import Loaded
from align_cli.run.opening import Reporter, check_inputs
from align_cli.run.plan import Step, plan_steps
from align_cli.run.reported import facts_of, now, write_report
from align_cli.run.results import Results
from align_cli.run.small import (
    longest_reward_pairs,
    quoted,
    rows_in_files,
    say_anything,
    scratch_beside,
    small_overrides,
    stages_of,
)
from align_cli.run.step import StepRunner
from align_cli.run.step_measures import Clock, Measurement, StepMeasure, measure_of, size_of
from align_cli.run.threads import settle_num_threads
from align_cli.stages import stage_named
from align_cli.stages.base import CHECKPOINT, Progress
from align_cli.stages.longest import any_rows, num_prompts

STEPS = 3
"""Of an optimizer, in the first round: the first is warmed up in, the others tell how long one takes."""
ROWS_FOR = 16
"""Rows are there for so many steps of each kind."""
SECONDS = 3.0
"""About so long each kind of work is at it in the second round, where the recipe has as much of it."""
WARM_START_SECONDS = 8.0
SLOW_SECONDS = 60.0
"""A first round that takes longer is warm enough to tell the pace: there is no second one."""


def measure(path: Path, overrides: Sequence[str], reporter: Reporter, start: Path | None = None) -> Measurement:
    """Measure in a process of its own.

    Args:
        path: the recipe's file.
        overrides: as for `load_recipe`.
        reporter: shown what happens.
        start: the checkpoint that the run would go on from; None for one that begins.

    Raises:
        AlignError: for whatever the run itself would be refused for, or fails of.
    """
    found: list[Measurement] = []
    with ExitStack() as stack:
        stages: list[Progress] = []

        def hear(what: str, *values: Any) -> None:
            if what == "measured":
                found.append(Measurement.from_dict(*values))
            elif what == "note":
                reporter.note(*values)
            elif what == "stage":
                stack.close()
                stages[:] = [stack.enter_context(reporter.stage(*values))]
            elif stages:
                getattr(stages[0], what)(*values)

        hint = "what a run needs, a measurement needs too: `align train --smoke` tries the longest rows"
        work = (path, list(overrides), start)
        Apart(__name__, work, what="the measurement", where="--measure", hint=hint).listen(hear)
    return found[0]


def take_measurement(
    path: Path, overrides: Sequence[str], teller: Teller, start: Path | None = None, began: float | None = None
) -> Measurement:
    """Measure in this process; see `measure`.

    Args:
        path: the recipe's file.
        overrides: as for `load_recipe`.
        teller: told what happens.
        start: the checkpoint that the run would go on from.
        began: when the process did, in seconds since 1970; now when left out.
    """
    began, peak = time.time() if began is None else began, PeakMemory()
    recipe = load_recipe(path, overrides)
    loaded = Loaded(recipe, Results(recipe, RunFolder(recipe.output_dir)), teller.note)
    plan = plan_steps(recipe)
    check_inputs(plan, loaded)
    startup, memory = time.time() - began, peak.figures().get("peak_memory_bytes")
    with scratch_beside(recipe) as scratch:
        run = scratch / "run"
        rows = {
            **any_rows(recipe, loaded.inputs, stages_of(plan), ROWS_FOR),
            **longest_reward_pairs(recipe, loaded, STEPS),
        }
        changed = [*overrides, f"output_dir={quoted(run)}", *small_overrides(recipe, STEPS)]
        small = load_recipe(path, [*changed, *_all_kept(recipe), *rows_in_files(rows, scratch)])
        pilot = _Pilot(recipe, small, teller, start)
        steps = pilot.measured()
        seconds, size = _report(small, run)
        return Measurement(startup, memory, seconds, size, pilot.num_threads, steps)


def _report(small: Recipe, run: Path) -> tuple[float, int]:
    """Seconds and bytes of a report on the small run."""
    begun, page, data = time.monotonic(), run / REPORT, run / REPORT_DATA
    facts = facts_of(Results(small, RunFolder(run)), run)
    write_report(report_twin([facts], command=f"align report {run}", time=now()), page, data)
    return time.monotonic() - begun, size_of(page) + size_of(data)


def _all_kept(recipe: Recipe) -> list[str]:
    """Overrides: every round ends with a checkpoint, whole, so that its time and bytes are known."""
    first = max(1, recipe.generate.batch_size // recipe.generate.num_generations)
    return [
        "rounds=2",
        "checkpoints={every_rounds: 1, keep: null, optimizer: all}",
        f"generate.prompts_per_round={min(first, recipe.generate.prompts_per_round)}",
        "launch={}",
    ]


class _Begun(Results):
    """Results of a small run that begins with another's checkpoint."""

    start: Path | None = None

    def checkpoint(self, round_number: int) -> Path | None:
        """The other's for round 0."""
        return self.start if round_number == 0 and self.start is not None else super().checkpoint(round_number)


class _Pilot:
    """The small run.

    Args:
        recipe: the whole recipe, which says how much there is at most.
        small: what the first round does of it.
        teller: told what happens.
        start: the checkpoint that it begins with; None makes or takes the initial policy.
    """

    def __init__(self, recipe: Recipe, small: Recipe, teller: Teller, start: Path | None) -> None:
        self._whole, self._small, self._teller, self._start = recipe, small, teller, start
        self._folder = RunFolder(small.output_dir)
        self._results = _Begun(small, self._folder)
        self._results.start = start
        self._loaded = Loaded(small, self._results, teller.note, asker=say_anything)
        self.num_threads = 1

    def measured(self) -> list[StepMeasure]:
        """Both rounds, or the first alone where that is slow."""
        small = self._small
        with self._folder.locked():
            self._folder.begin(dump(small), small.seed)
            settle_num_threads(self._folder, small, 0, self._teller.note)
            self.num_threads = self._folder.begun.num_threads(0) or 1
            steps = self._round(0, self._with_longer_warm_start())
            steps += self._round(1, small)
            if self._whole.rounds > 1 and sum(step.seconds for step in steps if step.round) < SLOW_SECONDS:
                steps += self._round(2, _grown(small, self._whole, steps))
        return steps

    def _round(self, number: int, recipe: Recipe) -> list[StepMeasure]:
        due = [step for step in plan_steps(recipe) if step.round == number]
        if self._start is not None:
            due = [step for step in due if CHECKPOINT not in stage_named(step.stage).writes or step.round]
        return [self._step(step, recipe) for step in due]

    def _with_longer_warm_start(self) -> Recipe:
        """The recipe of round 0, its warm start as long as some seconds allow: a few steps tell how quick it is."""
        sft, whole = self._small.policy.sft, self._whole.policy.sft
        if sft is None or whole is None or self._start is not None or sft.max_steps >= whole.max_steps:
            return self._small
        [first] = [self._step(step, self._small) for step in plan_steps(self._small)[:1]]
        steps = [phase for phase in first.phases if phase.unit == "steps"]
        longer = min(max(int(WARM_START_SECONDS / max(steps[0].pace, 1e-6)), sft.max_steps), whole.max_steps)
        policy = self._small.policy.model_copy(update={"sft": sft.model_copy(update={"max_steps": longer})})
        return self._small.model_copy(update={"policy": policy})

    def _step(self, step: Step, recipe: Recipe) -> StepMeasure:
        self._teller.tell("stage", step.round, step.stage)
        clock = Clock(self._teller)
        StepRunner(recipe, self._folder, self._loaded, self._results).carry_out(step, clock)
        return measure_of(self._folder, self._folder.ledger.events()[-1], recipe, self._loaded.inputs, clock.phases())


def _grown(small: Recipe, whole: Recipe, steps: Sequence[StepMeasure]) -> Recipe:
    """The second round: as much of each work as some seconds allow, by the first. What costs money stays small."""
    pace = {step.stage: max((phase.pace for phase in step.phases), default=0.0) for step in steps if step.round == 1}
    changed: dict[str, Any] = {}
    if (seconds := pace.get("train")) is not None:
        longer = _between(small.train.steps_per_round, SECONDS / max(seconds, 1e-6), whole.train.steps_per_round)
        changed["train"] = small.train.model_copy(update={"steps_per_round": longer})
    costs = any(whole.labelers[name].COSTS for name in whole.labelers)
    if (seconds := pace.get("generate")) is not None and not costs:
        batch = num_prompts(small, 1)
        prompts = SECONDS / max(seconds * small.generate.num_generations, 1e-6) // batch * batch
        more = _between(small.generate.prompts_per_round, prompts, whole.generate.prompts_per_round)
        changed["generate"] = small.generate.model_copy(update={"prompts_per_round": more})
    return small.model_copy(update=changed)


def _between(least: int, wanted: float, most: int) -> int:
    return min(max(int(wanted), least), most)


def _measure(teller: Teller, path: Path, overrides: list[str], start: Path | None) -> None:
    """The process's side."""
    import psutil

    measurement = take_measurement(path, overrides, teller, start, psutil.Process().create_time())
    teller.tell("measured", measurement.to_dict())


if __name__ == "__main__":
    do_apart(_measure)
