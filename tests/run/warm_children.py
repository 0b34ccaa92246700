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
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

ALIGN = [sys.executable, "-P"]
OF_OTHERS = ("PYTHONPATH", "PYTHONHASHSEED")
"""Variables that Python reads when it starts: where one of them is another, the process is started anew."""


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
        if not _is_align(args, env) or any((executable, preexec_fn, cwd)):
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
    if isinstance(args, (str, bytes, os.PathLike)) or list(args[:2]) != ALIGN or args[2] not in ("-m", "-c"):
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
        if env is not None:
            variables = dict(env)
            os.environ.clear()
            os.environ.update(variables)
        _take(pipes)
        _forget()
        code = _ended(lambda: _run(words))
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _take(pipes: Sequence[int]) -> None:
    """Its own ends of the pipes are its standard streams; the others it does not have."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor, (own, other) in enumerate([(pipes[0], pipes[1]), (pipes[3], pipes[2]), (pipes[5], pipes[4])]):
        if own not in (-1, descriptor):
            os.dup2(own, descriptor)
        if other != -1:
            os.dup2(nowhere, other)  # its number stays taken: an object of the parent's closes it once more
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", 1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", closefd=False)


def _forget() -> None:
    """What the parent has arranged for itself alone."""
    atexit._clear()
    tempfile.tempdir = None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _run(words: Sequence[str]) -> None:
    kind, what, *arguments = words
    sys.argv = [what if kind == "-m" else kind, *arguments]
    if kind == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that it is imported already
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def _ended(run: Callable[[], None]) -> int:
    """The exit code of a process that does this."""
    try:
        run()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
