"""Each step in a process of its own: what it had in memory goes with it, and the next one begins with nothing.

The process of the run holds the lock, plans, and talks to the user; the step's process does the rest as `step` has it,
from the run's folder, and tells what happens through a pipe. Every step reads its artifacts from the folder in any
case, so the run ends in the same bytes.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import IO, Any

from align_cli.artifacts.records import Evaluation
from align_cli.errors import AlignError, ExitCode, Fault, RunError
from align_cli.launch.crew import crew_of
from align_cli.recipe import Recipe
from align_cli.run.at_work import ToldProgress
from align_cli.run.folder import RunFolder
from align_cli.run.loaded import Loaded
from align_cli.run.plan import Step
from align_cli.run.results import Results
from align_cli.run.step import StepRunner
from align_cli.stages.base import EVALUATION, Artifact, Progress

PIPE = "ALIGN_TELLS"
"""The variable that holds the number of the pipe that a step's process tells through."""

PR_SET_PDEATHSIG = 1
WAIT_SECONDS = 20.0


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
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "align_cli.run.isolated"],
            env={**os.environ, PIPE: str(writing)},
            pass_fds=[writing],
            stdin=subprocess.PIPE,
        )
        os.close(writing)
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it is dead already, and its exit code says more
                pickle.dump((self.recipe, step, os.getpid()), process.stdin)
                process.stdin.close()
            with (
                os.fdopen(reading, encoding="utf-8") as told,
                ToldProgress(step, progress, self.folder.lock.tell) as at,
            ):
                error = self._listen(told, at)
            code = process.wait()
        finally:
            _end(process)
        if error is not None:
            raise error
        if code:
            raise _ended(step, code)
        self.folder.manifests.forget()
        is_evaluated = self.results.holds(Artifact(step.round, EVALUATION))
        return self.results.evaluation(step.round) if step.stage == "evaluate" and is_evaluated else None

    def _listen(self, told: IO[str], progress: Progress) -> AlignError | None:
        """Pass on what the step's process tells, until it is over; its fault, if it tells one."""
        error: AlignError | None = None
        for line in told:
            what, *values = json.loads(line)
            if what == "note":
                self.note(*values)
            elif what == "fault":
                error = _error(*values)
            else:
                getattr(progress, what)(*values)
        return error


class _Pipe:
    """What the step's process tells; progress, too."""

    def __init__(self, descriptor: int) -> None:
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)

    def tell(self, what: str, *values: Any) -> None:
        self._stream.write(json.dumps([what, *values]) + "\n")

    def note(self, text: str) -> None:
        self.tell("note", text)

    def start(self, total: int, unit: str) -> None:
        self.tell("start", total, unit)

    def advance(self, amount: int = 1) -> None:
        self.tell("advance", amount)

    def found(self, amount: int) -> None:
        self.tell("found", amount)

    def fault(self, error: AlignError) -> None:
        faults = [[fault.what, fault.where, fault.hint, fault.snippet] for fault in error.faults]
        self.tell("fault", int(error.exit_code), faults, error.not_shown)

    def end_with(self, error: AlignError) -> None:
        """Tell a fault and end at once, where nothing else can."""
        self.fault(error)
        os._exit(error.exit_code)


def _error(code: int, faults: list[list[str]], not_shown: str) -> AlignError:
    """The error that a step's process has told."""
    error = AlignError.of([Fault(what, where, hint, snippet) for what, where, hint, snippet in faults])
    error.exit_code = next(one for one in ExitCode if one.value == code)  # type: ignore[misc]
    error.not_shown = not_shown
    return error


def _ended(step: Step, code: int) -> RunError:
    """A process that ended without a word of its own, but for what it wrote itself."""
    again = "run the same command again: it goes on from what is there"
    if code > 0:
        return RunError(f"the process of {step} ended with exit code {code}", where="launch.isolate", hint=again)
    name = signal.Signals(-code).name
    hint = f"{again}. SIGKILL without a word is often the kernel's, when the machine is out of memory"
    return RunError(f"the process of {step} was killed by {name}", where="launch.isolate", hint=hint)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that is still there: this one is interrupted."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """The step's process."""
    pipe = _Pipe(int(os.environ.pop(PIPE)))
    recipe, step, parent = pickle.load(sys.stdin.buffer)
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the process of the run has too, and ends this one
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        crew = crew_of(recipe, pipe.note, pipe.end_with, None)
        folder = RunFolder(recipe.output_dir)
        results = Results(recipe, folder)
        with crew if crew is not None else nullcontext() as entered:
            loaded = Loaded(recipe, results, pipe.note, crew=entered)
            StepRunner(recipe, folder, loaded, results).carry_out(step, pipe)
    except AlignError as error:
        pipe.fault(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.INTERRUPTED) from None


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
