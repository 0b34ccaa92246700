"""The runs of a study, each a process of its own that does what `align train` does, several of them at a time.

What can be shared is made once: of the runs of a seed whose initial policy and its evaluation are the same, one makes
them, and the others fork from it when they are there. A run that fails holds no other one up. Whatever was finished is
found again, since a run is one: nothing here remembers what it has done.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from align_cli.artifacts.children import end_within
from align_cli.artifacts.files import write_text
from align_cli.errors import AlignError, counted
from align_cli.recipe import Recipe
from align_cli.run.folder import RunFolder
from align_cli.run.fork import shared_by_forks
from align_cli.run.plan import plan_steps
from align_cli.run.standing import remaining_steps
from align_cli.run.threads import is_small, usable_cores
from align_cli.study.definition import Definition, RunOfStudy
from align_cli.study.folder import StudyFolder

LOOK_SECONDS = 0.2
HELD_LOOK_SECONDS = 1.0
"""Between two looks at runs that processes of a killed study still hold."""
PATIENCE_SECONDS = 60.0
"""A run that is asked to end does so after its batch."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Processes side by side that each want every core take many times as long."""


def default_jobs(definition: Definition) -> int:
    """As many as there are cores where all policies are small; one where a model may need the machine to itself."""
    return usable_cores() if all(map(is_small, definition.recipes.values())) else 1


def is_finished(recipe: Recipe) -> bool:
    """Whether the run of a recipe has nothing left to do."""
    folder = RunFolder(recipe.output_dir)
    return folder.exists and not remaining_steps(folder, recipe, plan_steps(recipe))


@dataclass
class Work:
    """What is left of a study, and the processes that are at it.

    Args:
        definition: of the study.
        folder: the study's, which the caller has locked.
        command: the program and the words of it that `align train` is, without what follows.
        jobs: processes at a time, at least 1.
        note: told of each run that ends.
    """

    definition: Definition
    folder: StudyFolder
    command: Sequence[str]
    jobs: int
    note: Callable[[str], None]
    failed: dict[RunOfStudy, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._running: dict[RunOfStudy, tuple[subprocess.Popen[bytes], float]] = {}
        self._seconds: list[float] = []
        self._begun_alike = {
            name: json.dumps(shared_by_forks(recipe), sort_keys=True, default=str)
            for name, recipe in self.definition.recipes.items()
        }
        self._waiting = [run for run in self.definition.runs if not self._is_finished(run)]
        self._was_held = False

    def carry_out(self) -> dict[RunOfStudy, str]:
        """Every run that is not finished.

        Returns:
            Why runs did not finish, in their own words.
        """
        settings = counted(len(self.definition.combinations), "setting")
        seeds, total = counted(len(self.definition.seeds), "seed"), len(self.definition.runs)
        done = total - len(self._waiting)
        finished = f", of which {done} {'is' if done == 1 else 'are'} finished" if done else ""
        self.note(f"{settings} under {seeds}: {counted(total, 'run')}{finished}; {self.jobs} at a time")
        try:
            while self._waiting or self._running:
                self._start_what_can()
                self._look()
        finally:
            self._end_all()
        return self.failed

    def _start_what_can(self) -> None:
        for run in list(self._waiting):
            if len(self._running) >= self.jobs:
                return
            if self._is_held(run) or not self._may_begin(run):
                continue
            self._waiting.remove(run)
            if not self._is_finished(run):  # a process of a killed study may have done it meanwhile
                self._running[run] = (self._start(run), time.monotonic())

    def _look(self) -> None:
        """Take note of what has ended; wait a little where nothing has."""
        ended = [run for run, (process, _) in self._running.items() if process.poll() is not None]
        for run in ended:
            process, began = self._running.pop(run)
            self._tell(run, process.returncode, time.monotonic() - began)
        if not ended and not self._running and self._waiting and not self._was_held:
            self._was_held = True
            self.note("waiting for processes that a study which was killed has left at work")
        if not ended:
            time.sleep(LOOK_SECONDS if self._running else HELD_LOOK_SECONDS)

    def _tell(self, run: RunOfStudy, code: int, seconds: float) -> None:
        left = len(self._waiting) + len(self._running)
        if code:
            self.failed[run] = why_failed(self._said(run), code)
            self.note(f"{run}: {self.failed[run]} ({self.folder.log(run)})")
            return
        self._seconds.append(seconds)
        rest = sum(self._seconds) / len(self._seconds) * left / self.jobs
        self.note(f"{run}: finished in {seconds:.1f} s" + (f"; {left} to go, some {rest:.0f} s" if left else ""))

    def _said(self, run: RunOfStudy) -> str:
        return self.folder.log(run).read_text(encoding="utf-8", errors="replace")

    def _start(self, run: RunOfStudy) -> subprocess.Popen[bytes]:
        origin, log = self._origin(run), self.folder.log(run)
        words = [*self.command, *self.definition.words_of(run, self.folder.run(run))]
        if origin is not None:
            words += ["--from", f"{self.folder.run(origin)}@0"]
        write_text(log, "")
        environment = {**os.environ, **(ONE_THREAD if self.jobs > 1 else {})}
        with log.open("ab") as said:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, env=environment
            )

    def _may_begin(self, run: RunOfStudy) -> bool:
        """Whether a run need not wait for what another one is making for it too."""
        if self._has_begun(run) or self._origin(run) is not None:
            return True
        return not any(other in self._running or self._is_held(other) for other in self._alike(run))

    def _origin(self, run: RunOfStudy) -> RunOfStudy | None:
        """The run that a new one forks from; None where it makes everything itself, or has begun."""
        if self._has_begun(run):
            return None
        return next((other for other in self._alike(run) if self._has_initial(other)), None)

    def _alike(self, run: RunOfStudy) -> list[RunOfStudy]:
        """Those of its seed that begin as it does, in the study's order."""
        wanted = self._begun_alike[run.combination.name]
        return [
            other
            for other in self.definition.runs
            if other != run and other.seed == run.seed and self._begun_alike[other.combination.name] == wanted
        ]

    def _has_begun(self, run: RunOfStudy) -> bool:
        folder = RunFolder(self.folder.run(run))
        return folder.exists or folder.lineage.origin is not None

    def _has_initial(self, run: RunOfStudy) -> bool:
        """Whether a run has finished round 0."""
        folder = RunFolder(self.folder.run(run))
        steps = [step for step in plan_steps(self._recipe(run)) if step.round == 0]
        return folder.exists and all(
            folder.lineage.inherits(0) or folder.manifests.finished(step) is not None for step in steps
        )

    def _is_finished(self, run: RunOfStudy) -> bool:
        try:
            return is_finished(self._recipe(run))
        except AlignError:  # what is damaged its own process tells
            return False

    def _is_held(self, run: RunOfStudy) -> bool:
        """Whether a process that is not ours is at work on a run."""
        holder = RunFolder(self.folder.run(run)).lock.holder
        return run not in self._running and holder is not None and bool(holder.lives)

    def _recipe(self, run: RunOfStudy) -> Recipe:
        return self.definition.recipe_of(run, self.folder.run(run))

    def _end_all(self) -> None:
        """Ask every process that is left to end, as Ctrl-C does, and see to it that it does."""
        for process, _ in self._running.values():
            process.terminate()
        for process, _ in self._running.values():
            end_within(process, PATIENCE_SECONDS)
        self._running.clear()


def why_failed(said: str, code: int) -> str:
    """Why a process failed, by the last that it said.

    Args:
        said: its standard error.
        code: its exit code; negative for a signal.
    """
    if code < 0:
        return f"its process was killed by signal {-code}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    while lines and (lines[-1].startswith("hint: ") or re.fullmatch(r"\d+ faults?(, and .*)?", lines[-1])):
        lines.pop()
    return lines[-1] if lines else f"its process ended with exit code {code}"
