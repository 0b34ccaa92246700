"""Running out of memory, whichever device it is and whoever says so: one exception for what many say in many ways.

And how often memory is looked through for garbage: seldom while libraries are imported, as ever once there is a model.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from align_cli.errors import AlignError, OutOfMemoryError

WORDS = (
    "defaultcpuallocator",
    "not enough memory",
    "out of memory",
    "cublas_status_alloc_failed",
    "bad_alloc",
    "cannot allocate memory",
    "failed to map segment",  # of a library that is being loaded
    "can't start new thread",
)
"""What allocators, libraries and loaders say, in small letters, where it is no error of a kind of its own."""

SELDOM = 1_000_000
"""Objects between two looks for garbage while libraries are imported: torch, transformers and TRL make half as many."""

AS_EVER = gc.get_threshold()
"""Python's own numbers, before anything was changed."""


def memory_fault(error: BaseException) -> str | None:
    """What an error says, in a line, if memory has run out, or if that is behind it; None for any other error."""
    if isinstance(error, AlignError):
        return None
    lines = str(error).strip().splitlines()
    telling = [line for line in lines if any(words in line.lower() for words in WORDS)]
    is_of_a_kind = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    if telling or is_of_a_kind or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return (telling or lines or ["no more is to be had"])[0]
    return None if error.__cause__ is None else memory_fault(error.__cause__)


def importing_libraries() -> None:
    """From here on modules are made, which stay: torch and transformers are there a fifth sooner if none is looked at.

    It holds until `loading_a_model`.
    """
    gc.set_threshold(SELDOM, *AS_EVER[1:])


def loading_a_model() -> None:
    """From here on garbage may be large; of what was imported nothing is garbage, and nobody looks through it again."""
    if gc.get_threshold()[0] == SELDOM:
        gc.freeze()
        gc.set_threshold(*AS_EVER)


@contextmanager
def out_of_memory_as_memory_error() -> Iterator[None]:
    """Turn whatever says that memory ran out into MemoryError, and free what the failed work held.

    Raises:
        MemoryError: if the block ran out of memory.
    """
    try:
        yield
    except Exception as error:
        message = memory_fault(error)
        if message is None:
            raise
        # What ran out of memory hangs on the frames that it failed in, which the error of whoever handles this keeps.
        traceback.clear_frames(error.__traceback__)
    else:
        return
    _empty_caches()
    raise MemoryError(message)


@contextmanager
def telling_out_of_memory(where: str, hint: str) -> Iterator[None]:
    """Say what can be done where memory runs out in this block.

    Args:
        where: the work, such as `round 1 label`.
        hint: what makes it smaller.

    Raises:
        OutOfMemoryError: if the block ran out of memory.
    """
    try:
        with out_of_memory_as_memory_error():
            yield
    except MemoryError as error:
        raise OutOfMemoryError(f"out of memory: {error}", where=where, hint=hint) from None


class PeakMemory:
    """The most memory that this process has in a stretch of work, from when this is made.

    Linux lets a process set its own mark back. Where nothing does, the mark is the most since the process began: it is
    the stretch's own only if that took more than all before, and is left out if it did not.
    """

    def __init__(self) -> None:
        self._before = None if _mark_set_back() else _peak_resident_bytes()
        _take_peak_device_bytes()

    def figures(self) -> dict[str, int]:
        """`peak_memory_bytes` and `peak_gpu_memory_bytes`, those that are known."""
        resident = _peak_resident_bytes()
        if resident is not None and self._before is not None and resident <= self._before:
            resident = None
        found = {"peak_memory_bytes": resident, "peak_gpu_memory_bytes": _take_peak_device_bytes()}
        return {name: peak for name, peak in found.items() if peak is not None}


def _mark_set_back() -> bool:
    """Whether the process's mark of its most resident memory stands at what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # see proc_pid_clear_refs(5)
    except OSError:
        return False
    return True


def _peak_resident_bytes() -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    with suppress(ImportError):  # Windows has no such module
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return None


def _take_peak_device_bytes() -> int | None:
    """The most that tensors took on the accelerator since the last call, where there is one that counts."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.accelerator.is_available():
        return None
    with suppress(RuntimeError):  # not every kind counts
        peak: int = torch.accelerator.max_memory_allocated()
        torch.accelerator.reset_peak_memory_stats()
        return peak
    return None


def give_back_freed() -> None:
    """Let the system have what was freed: C's allocator keeps pieces below 32 MB, which is most of what training frees.

    It does nothing where the C library has no such call.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _empty_caches() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        gc.collect()
        torch.accelerator.empty_cache()
