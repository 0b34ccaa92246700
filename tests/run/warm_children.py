"""Processes of align's own that align starts: forked from the one that starts them, which has imported all they need.

Started anew, each would import torch and TRL first, seconds of a core that a test waits for. They are children of the
process that starts them all the same, with its pipes and a number of their own, and can be killed.
"""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

MAIN = "from align_cli.cli.main import main; main()"
OF_OTHERS = ("PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS")
"""Variables that are read at the start alone: where one of them is another, the process is started anew."""
AS_EVER = (True, None, None, None, -1, False, -1)
"""What `subprocess` is asked about signals, users, groups and sessions by those that ask nothing."""


def fork_them() -> None:
    """From now on this process forks what it would start of align."""
    subprocess.Popen = _Popen  # type: ignore[misc]


class _Popen(subprocess.Popen):
    """Forks where a command is one of align's own."""

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: Any,
        pass_fds: Iterable[int],
        cwd: Any,
        env: Mapping[str, str] | None,
        *rest: Any,
    ) -> None:
        if not _is_align(args, env) or any((executable, preexec_fn, cwd)) or rest[9:] != AS_EVER:
            super()._execute_child(  # type: ignore[misc]
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest
            )
            return
        pipes: Sequence[int] = rest[3:9]
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            be(args[2:], env, pipes)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def _is_align(args: Any, env: Mapping[str, str] | None) -> bool:
    """Whether this is a command of align's, in an environment that Python would not start differently in."""
    if isinstance(args, (str, bytes, os.PathLike)) or len(args) < 4 or list(args[:2]) != [sys.executable, "-P"]:
        return False
    if args[2:4] != ["-c", MAIN] and not (args[2] == "-m" and args[3].startswith("align_cli.")):
        return False
    return env is None or all(env.get(name) == os.environ.get(name) for name in OF_OTHERS)


def be(words: Sequence[str], env: Mapping[str, str] | None, pipes: Sequence[int] = (-1,) * 6) -> None:
    """Be the process that Python would start with these words, and end.

    Args:
        words: `-m MODULE ...` or `-c CODE ...`.
        env: its environment; None for this one.
        pipes: as `subprocess` has them: for reading and for writing, of its input, its output and its errors.
    """
    code = 1
    try:
        _forget()
        if env is not None:
            variables = dict(env)
            os.environ.clear()
            os.environ.update(variables)
        _take(pipes)
        code = _ended(lambda: _run(words))
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
                stream.flush()
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)


def _forget() -> None:
    """What the parent has arranged for itself alone."""
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    tempfile.tempdir = None
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _take(pipes: Sequence[int]) -> None:
    """Its own ends of the pipes are its standard streams; the others it does not have."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor, (own, other) in enumerate([(pipes[0], pipes[1]), (pipes[3], pipes[2]), (pipes[5], pipes[4])]):
        if own not in (-1, descriptor):
            os.dup2(own, descriptor)
        if other != -1:
            os.dup2(nowhere, other)  # its number stays taken: an object of the parent's closes it once more
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", 1 if os.isatty(1) else -1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", closefd=False)


def _run(words: Sequence[str]) -> None:
    kind, what, *arguments = words
    sys.argv = [what if kind == "-m" else kind, *arguments]
    if kind == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        return
    warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
    runpy.run_module(what, run_name="__main__", alter_sys=True)


def _ended(run: Callable[[], None]) -> int:
    """The exit code of a process that does this, below 0 for a signal, with all that Python does at its end."""
    code = 0
    try:
        try:
            run()
        finally:
            threading._shutdown()  # type: ignore[attr-defined]
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            sys.stderr.write(f"{ended.code}\n")
        code = ended.code or 0 if isinstance(ended.code, int | None) else 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    atexit._run_exitfuncs()
    return code
