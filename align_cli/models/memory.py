"""Running out of memory, whichever device it is: one exception for what torch says in several ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

CPU_WORDS = ("DefaultCPUAllocator", "not enough memory")


@contextmanager
def out_of_memory_as_memory_error() -> Iterator[None]:
    """Turn torch's out-of-memory errors into MemoryError, and free what the failed work held.

    Raises:
        MemoryError: if the block ran out of memory.
    """
    import torch

    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in CPU_WORDS):
            raise
        message = str(error).strip().splitlines()[0]
    else:
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise MemoryError(message)
