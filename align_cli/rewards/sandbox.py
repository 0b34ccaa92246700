"""Runs code that nobody has read in a process of its own, with bounds; whatever it leaves running is killed.

Always: a session of its own, in an empty folder that is removed, with an environment of three variables, `python -I -S`
(the standard library alone), limits of CPU time, address space, size and number of files, no core dumps, a deadline
that kills everything, and output that is read up to a bound. On Linux, x86-64 and arm64, it makes no process unless it
is allowed some.

On Linux, where the kernel lets a user make namespaces (`unshare`), it also has no network, sees no process but its own,
of which all end with it, finds every file system read-only but for its folder, a file system in memory of a bounded
size, and holds no privileges, root's included.

Where it may not, code can reach the network, write and kill what its user can, and ask other processes of that user for
their environment; a child that leaves the session is looked for, and may escape. macOS bounds no address space either.
In both cases it can read what its user can read. It is no security boundary beyond what the operating system gives: for
code that is written to attack, take a container or a virtual machine around align.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from align_cli.errors import LabelerError

INSIDE = Path(__file__).with_name("inside_sandbox.py")
NAMESPACES = ("--user", "--map-root-user", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child=KILL")
READY = b"ready\n"
"""What comes out first once all bounds are there; without it the sandbox is at fault, and not the code."""

POLL_SECONDS = 0.02
GRACE_SECONDS = 2.0
"""After its own deadline, for the processes inside to be ended by their keeper."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one run.

    Args:
        seconds: of wall-clock time, and of each process' CPU time.
        memory_mb: address space of each process.
        file_mb: size of a file; with namespaces also of the whole folder.
        processes: made in all by the code: 0 for none, which Linux forbids it, on x86-64 and arm64; more are counted
            where there are namespaces.
        open_files: at once, of each process.
        output_bytes: of standard output; more ends it.
    """

    seconds: float = 5.0
    memory_mb: int = 512
    file_mb: int = 16
    processes: int = 0
    open_files: int = 64
    output_bytes: int = 1 << 20


class Ran(NamedTuple):
    """What became of code.

    Args:
        succeeded: whether it ended by itself, in time and with status 0.
        output: its standard output.
    """

    succeeded: bool
    output: bytes


def run_python(code: str, given: str, limits: Limits) -> Ran:
    """Run Python, and wait for its end.

    Args:
        code: a whole program.
        given: its standard input.
        limits: what bounds it.

    Raises:
        LabelerError: if the bounds cannot be had.
    """
    ended = _run(code, given, limits, in_namespaces=has_namespaces())
    if ended.output.startswith(READY):
        return Ran(ended.is_in_bounds and ended.status == 0, ended.output[len(READY) :])
    if not ended.is_in_bounds or ended.status < 0:
        return Ran(False, b"")  # as where the machine is so busy that time was up at the start
    what = f"the sandbox did not come up: {ended.said or ended.status}"
    raise LabelerError(what, where="align_cli.rewards", hint="is this a Linux or macOS with a whole Python?")


@cache
def has_namespaces() -> bool:
    """Whether the system lets its users make namespaces, and mount in them; tried once in a process."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    return _run("", "", Limits(seconds=20), in_namespaces=True).output.startswith(READY)


class _Ended(NamedTuple):
    output: bytes
    is_in_bounds: bool
    status: int
    said: str


def _run(code: str, given: str, limits: Limits, *, in_namespaces: bool) -> _Ended:
    with _folder() as folder:
        work = folder / "work"
        work.mkdir()
        (folder / "code.py").write_text(code, encoding="utf-8", errors="surrogatepass")
        (folder / "given").write_text(given, encoding="utf-8", errors="surrogatepass")
        with (folder / "given").open("rb") as given_to_it:
            process = subprocess.Popen(
                _command(folder, limits, in_namespaces=in_namespaces),
                stdin=given_to_it,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(work)},
                start_new_session=True,
            )
        try:
            output, is_in_bounds = _read(process, limits)
        finally:
            _end(process)
        assert process.stderr is not None
        with process.stderr:
            said = process.stderr.read(2000).decode(errors="replace").strip()
    return _Ended(output, is_in_bounds, process.returncode, said)


def _command(folder: Path, limits: Limits, *, in_namespaces: bool) -> Sequence[str]:
    python = [sys.executable, "-I", "-S", str(INSIDE)]
    arguments = [str(folder), str(int(in_namespaces)), *map(str, astuple(limits))]
    return [*(["unshare", *NAMESPACES] if in_namespaces else []), *python, *arguments]


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="align-code-"))
    try:
        yield folder
    finally:
        for place, names, _ in os.walk(folder):  # code may have taken rights to its own folders away
            for name in names:
                if not (Path(place) / name).is_symlink():
                    (Path(place) / name).chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _read(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, bool]:
    """Its output so far, when it has ended, or has gone beyond a bound, which is then False."""
    assert process.stdout is not None
    deadline = time.monotonic() + limits.seconds + GRACE_SECONDS
    most = limits.output_bytes + len(READY)
    os.set_blocking(process.stdout.fileno(), False)
    output = bytearray()
    while True:
        has_ended = process.poll() is not None  # before reading: what it wrote last is read too
        while len(output) <= most and (chunk := process.stdout.read(1 << 16)):
            output += chunk
        if len(output) > most:
            return bytes(output[:most]), False
        if has_ended:
            return bytes(output), True
        if time.monotonic() > deadline:
            return bytes(output), False
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it is left: neither its group nor, as far as they are found, those who left it."""
    import psutil

    left: list[psutil.Process] = []
    with suppress(psutil.Error):
        left = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in left:
        with suppress(psutil.Error):
            other.kill()  # psutil does not mistake a new process with the same number for it
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
