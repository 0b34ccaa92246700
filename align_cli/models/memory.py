"""Running out of memory, whichever device it is and whoever says so: one exception for what many say in many ways."""

from __future__ import annotations

import errno
import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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


def peak_memory() -> dict[str, int]:
    """The most that this process has had in memory, and that a GPU has had since the last call, where that is known.

    Returns:
        `peak_memory_bytes` and `peak_gpu_memory_bytes`.
    """
    found = {}
    with suppress(ImportError):  # Windows has no such module
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["peak_memory_bytes"] = peak if sys.platform == "darwin" else peak * 1024
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    return found


def _empty_caches() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
