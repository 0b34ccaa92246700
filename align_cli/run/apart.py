"""Work in a process of its own: what it had in memory goes with it, and it tells through a pipe what happens.

The process that starts it waits for its end, and raises what it was refused for. It ends with that process, whatever
becomes of it.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from align_cli.artifacts.children import AGAIN, OUT_OF_MEMORY, end_within, ends_with, killed_by
from align_cli.errors import AlignError, ExitCode, Fault, RunError

PIPE = "ALIGN_TELLS"
"""The variable that holds the number of the pipe that such a process tells through."""

WAIT_SECONDS = 20.0


class Apart:
    """A process in which a module does work, by its `do_apart`.

    Args:
        module: such as `align_cli.run.isolated`.
        work: what it is handed, pickled.
        what: the work in words, for errors.
        where: what had it done so, for errors.
        hint: what to do where it dies.
    """

    def __init__(self, module: str, work: tuple[Any, ...], *, what: str, where: str, hint: str = AGAIN) -> None:
        self._words = (what, where, hint)
        reading, writing = os.pipe()
        self._told = os.fdopen(reading, encoding="utf-8")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it ignores it, once it is that far
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                env={**os.environ, PIPE: str(writing)},
                pass_fds=[writing],
                stdin=subprocess.PIPE,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(writing)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead already, and its exit code says more
            pickle.dump((work, os.getpid()), self._process.stdin)
            self._process.stdin.close()

    def listen(self, hear: Callable[..., object]) -> None:
        """Pass on what it tells, until it is over; where that cannot be waited for, it is ended.

        Args:
            hear: called with all that it tells: a word, such as `note` or `advance`, and what belongs to it.

        Raises:
            AlignError: what the process raises, or if it dies.
        """
        try:
            with self._told:
                error = _listen(self._told, hear)
            code = self._process.wait()
        finally:
            self.end()
        if error is not None:
            raise error
        if code:
            raise _died(code, *self._words)

    def end(self) -> None:
        """End it if it is still there."""
        self._process.terminate()
        end_within(self._process, WAIT_SECONDS)


class Teller:
    """What such a process tells; progress, too.

    Args:
        descriptor: of the pipe.
    """

    def __init__(self, descriptor: int) -> None:
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)

    def tell(self, what: str, *values: Any) -> None:
        """A word, and what belongs to it."""
        self._stream.write(json.dumps([what, *values]) + "\n")

    def note(self, text: str) -> None:
        """What a user should know."""
        self.tell("note", text)

    def start(self, total: int, unit: str) -> None:
        """Work begins."""
        self.tell("start", total, unit)

    def advance(self, amount: int = 1) -> None:
        """Some of it is done."""
        self.tell("advance", amount)

    def found(self, amount: int) -> None:
        """Some of it was done before."""
        self.tell("found", amount)

    def fault(self, error: AlignError) -> None:
        """It ends with a fault of the user's."""
        faults = [[fault.what, fault.where, fault.hint, fault.snippet] for fault in error.faults]
        self.tell("fault", int(error.exit_code), faults, error.not_shown)

    def end_with(self, error: AlignError) -> None:
        """Tell a fault and end at once, where nothing else can."""
        self.fault(error)
        os._exit(error.exit_code)


def do_apart(do: Callable[..., None]) -> None:
    """The process's own side: do the work that stands at its standard input.

    Args:
        do: called with the teller and what `Apart` handed on.
    """
    teller = Teller(int(os.environ.pop(PIPE)))
    work, parent = pickle.load(sys.stdin.buffer)
    if not ends_with(parent):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the process that started it has too, and ends this one
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        do(teller, *work)
    except AlignError as error:
        teller.fault(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.INTERRUPTED) from None


def _listen(told: IO[str], hear: Callable[..., object]) -> AlignError | None:
    """Pass on what the process tells, until it is over; its fault, if it tells one."""
    error: AlignError | None = None
    for line in told:
        what, *values = json.loads(line)
        if what == "fault":
            error = _error(*values)
        else:
            hear(what, *values)
    return error


def _error(code: int, faults: list[list[str]], not_shown: str) -> AlignError:
    """The error that the process has told."""
    error = AlignError.of([Fault(what, where, hint, snippet) for what, where, hint, snippet in faults])
    error.exit_code = next(one for one in ExitCode if one.value == code)  # type: ignore[misc]
    error.not_shown = not_shown
    return error


def _died(code: int, what: str, where: str, hint: str) -> RunError:
    """A process that ended without a word of its own, but for what it wrote itself."""
    if code > 0:
        return RunError(f"the process of {what} ended with exit code {code}", where=where, hint=hint)
    return RunError(
        f"the process of {what} was killed by {killed_by(code)}", where=where, hint=f"{hint}. {OUT_OF_MEMORY}"
    )


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
