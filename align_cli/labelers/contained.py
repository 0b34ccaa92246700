"""Code of the user's runs in the process of the run, and changes nothing of it.

The one way in which labelers call code that is not align's, its import included. In the same process, because a labeler
may hold a model on the GPU or a closure; so what it could do to the run is put back after each call, and told once:

- What it prints is talk, without secrets; closing the streams that it prints to closes nothing. (What is written to
  descriptor 1 by C or by child processes is kept from data by `cli/streams.py`.)
- What it raises is its fault, whatever class it is of: `SystemExit`, `CancelledError` and others that no `except
  Exception` sees. A `KeyboardInterrupt` without words is the user's Ctrl-C and stays one.
- `os._exit`, and programs that would take the process over (`os.exec*`), raise `SystemExit` there. In children they do
  what they always do.
- A child that it forks and that comes back from it ends there: it is no second run.
- Files that were open before, and that it has not opened itself in an earlier call, stay open: to `os.close` they are
  not there, `os.dup2` puts no other in their place, and `os.closerange` passes over them.
- What it imports, then or while it is called, leaves no `__pycache__` beside its files: a check leaves nothing.
- Each of `SURROUNDINGS` is afterwards what it was before.

Not contained: environment variables and `sys.path`, which its own later imports may need; functions of others that it
replaces; files that are closed from C; what it does in threads after it has returned; `exit()` called from C.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from itertools import dropwhile
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple, NoReturn, TextIO

from align_cli.errors import AlignError
from align_cli.redaction import without_secrets

LONGEST_TRACEBACK = 20_000
"""Characters of a traceback that are shown; of a longer one its beginning and its end."""


STDERR = 2


class UserCodeError(Exception):
    """The user's code raised.

    Attributes:
        error: what it raised.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Surrounding(NamedTuple):
    """Something of the process that code can change and that runs depend on.

    Args:
        name: as a user calls it.
        read: what it is now.
        put_back: let it be what was read.
    """

    name: str
    read: Callable[[], Any]
    put_back: Callable[[Any], object]


@contextmanager
def contained(tell: Callable[[str], None]) -> Iterator[None]:
    """The surroundings of the user's code, which goes in the block.

    Args:
        tell: told the name of each surrounding that was changed.

    Raises:
        UserCodeError: whatever the block raises, but for faults that have words already and interruptions.
    """
    process, error = os.getpid(), None
    before = [surrounding.read() for surrounding in SURROUNDINGS]
    talk = _Talk(sys.stderr) if sys.stderr is not None else None
    with (
        redirect_stdout(talk),
        redirect_stderr(talk),
        _without_ways_out(process),
        _without_files_of_others(process),
        _without_bytecode(),
    ):
        try:
            yield
        except BaseException as raised:
            error = raised
        if os.getpid() != process:
            _end_child(error, talk)
    for name in _put_back(before):
        tell(name)
    if isinstance(error, AlignError) or (isinstance(error, KeyboardInterrupt) and not error.args):
        raise error
    if error is not None:
        raise UserCodeError(error) from error


def own_traceback(error: BaseException) -> str:
    """The traceback through the user's own code, without secrets; the exception alone where the call itself failed."""
    told = traceback.TracebackException.from_exception(error)
    _keep_own_frames(told)
    text = without_secrets("".join(told.format()).rstrip())
    if len(text) <= LONGEST_TRACEBACK:
        return text
    half = LONGEST_TRACEBACK // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"


def is_aligns(file: str) -> bool:
    """Whether code stands in a file of this room, which calls the user's."""
    return Path(file).parent == Path(__file__).parent


def _keep_own_frames(told: traceback.TracebackException) -> None:
    frames = dropwhile(lambda frame: _leads_to_the_users(frame.filename), told.stack)
    kept = [frame for frame in frames if not is_aligns(frame.filename)]
    told.stack = traceback.StackSummary.from_list(kept) if kept else None  # type: ignore[assignment]
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            _keep_own_frames(other)


def _leads_to_the_users(file: str) -> bool:
    return is_aligns(file) or file in (contextlib.__file__, importlib.__file__) or file.startswith("<frozen importlib")


class _Talk(io.TextIOBase):
    """Where the user's code prints to: standard error, without secrets, and still open if it is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def write(self, text: str) -> int:
        self._stream.write(without_secrets(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True


@contextmanager
def _without_bytecode() -> Iterator[None]:
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextmanager
def _without_ways_out(process: int) -> Iterator[None]:
    """No call ends this process or lets another program take it over; its children may do both."""

    def kept_in(name: str, way: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
        def call(*arguments: Any, **named: Any) -> NoReturn:
            if os.getpid() == process:
                raise SystemExit(f"os.{name} was called, which would have ended the run")
            way(*arguments, **named)

        return call

    names = ("_exit", "execv", "execve")  # all others of os.exec* call these
    with _in_place_of({name: kept_in(name, getattr(os, name)) for name in names}):
        yield


_opened_by_code: set[int] = set()
"""Descriptors that the user's code has opened in calls that are over, and may close in later ones."""


@contextmanager
def _without_files_of_others(process: int) -> Iterator[None]:
    """No call closes what this process had open before, but for what the user's code has opened itself."""
    before = _open_descriptors()
    _opened_by_code.intersection_update(before)
    others, real = before - _opened_by_code, (os.close, os.closerange, os.dup2)

    def check(descriptor: int) -> None:
        if os.getpid() == process and descriptor in others:
            raise OSError(errno.EBADF, "this file is open for the run, and stays so")

    def close(fd: int) -> None:
        check(fd)
        real[0](fd)

    def closerange(fd_low: int, fd_high: int) -> None:
        if os.getpid() != process:
            real[1](fd_low, fd_high)
            return
        for descriptor in _open_descriptors() - others:
            if fd_low <= descriptor < fd_high:
                with suppress(OSError):
                    real[0](descriptor)

    def dup2(fd: int, fd2: int, inheritable: bool = True) -> int:
        if fd2 > STDERR:  # the standard streams are often led elsewhere for a while
            check(fd2)
        return real[2](fd, fd2, inheritable)

    with _in_place_of({"close": close, "closerange": closerange, "dup2": dup2}):
        yield
    _opened_by_code.update(_open_descriptors() - before)


def _open_descriptors() -> set[int]:
    """What this process has open; nothing where the system does not list it."""
    try:
        listed = {int(name) for name in os.listdir("/dev/fd")}  # noqa: PTH208 - numbers are what is wanted
    except OSError:
        return set()
    return {descriptor for descriptor in listed if _is_open(descriptor)}  # the list itself was open too


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextmanager
def _in_place_of(functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Let functions of `os`, by name, be these for a while."""
    ways = {name: getattr(os, name) for name in functions}
    for name, function in functions.items():
        setattr(os, name, function)
    try:
        yield
    finally:
        for name, way in ways.items():
            setattr(os, name, way)


def _end_child(error: BaseException | None, talk: TextIO | _Talk | None) -> NoReturn:
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None and talk is not None:
        talk.write(own_traceback(error) + "\n")
    with suppress(OSError, ValueError):
        if talk is not None:
            talk.flush()
    os._exit(code)


def _put_back(before: Sequence[Any]) -> list[str]:
    """The names of what had changed."""
    changed = [pair for pair in zip(SURROUNDINGS, before, strict=True) if pair[0].read() != pair[1]]
    for surrounding, value in changed:
        with suppress(OSError):  # as where a folder was removed meanwhile
            surrounding.put_back(value)
    return [surrounding.name for surrounding, _ in changed]


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a Path is compared more slowly, and means nothing else here
    except OSError:
        return None


def _go_back(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_ALARMS = ("SIGALRM", "SIGVTALRM", "SIGPROF")
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE", *_ALARMS) if hasattr(signal, name)
]
_TIMERS = [getattr(signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, name)]


def _timers() -> list[bool]:
    """Which timers are running: how long they still have changes by itself."""
    return [signal.getitimer(timer) != (0.0, 0.0) for timer in _TIMERS]


def _stop_timers(were_running: list[bool]) -> None:
    for timer, was_running in zip(_TIMERS, were_running, strict=True):
        if not was_running:
            signal.setitimer(timer, 0.0)


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _SIGNALS]


def _handle_again(handlers: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None:  # None is a handler of C's, which Python cannot install
            signal.signal(number, handler)


def _of_torch(name: str, read: str, put_back: str) -> Surrounding:
    # Imported even where the user's code would be the first to: afterwards nobody could tell what it was before.
    def function(of: str) -> Callable[..., Any]:
        return resolve_name(f"torch:{of}")

    return Surrounding(f"torch's {name}", lambda: function(read)(), lambda value: function(put_back)(value))


def _cuda_device() -> int:
    import torch

    return torch.cuda.current_device() if torch.cuda.is_initialized() else 0


def _set_cuda_device(device: int) -> None:
    import torch

    torch.cuda.set_device(device)


def _set_default_device(device: Any) -> None:
    import torch

    torch.set_default_device(None if device.type == "cpu" else device)  # None costs nothing from then on


SURROUNDINGS = (
    Surrounding("the current folder", _folder, _go_back),
    Surrounding("the umask", _umask, os.umask),
    Surrounding("timers that signal", _timers, _stop_timers),  # before the handlers: none may go off between
    Surrounding("handlers of signals", _handlers, _handle_again),
    Surrounding("the limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit),
    _of_torch("number of threads", "get_num_threads", "set_num_threads"),
    _of_torch("default dtype", "get_default_dtype", "set_default_dtype"),
    _of_torch("gradient mode", "is_grad_enabled", "set_grad_enabled"),
    _of_torch("float32 precision", "get_float32_matmul_precision", "set_float32_matmul_precision"),
    _of_torch("deterministic mode", "get_deterministic_debug_mode", "set_deterministic_debug_mode"),
    Surrounding("torch's default device", lambda: resolve_name("torch:get_default_device")(), _set_default_device),
    Surrounding("the current CUDA device", _cuda_device, _set_cuda_device),
)
