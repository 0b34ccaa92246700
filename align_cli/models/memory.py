"""Running out of memory, whichever device it is: one exception for what torch says in several ways."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

WORDS = ("DefaultCPUAllocator", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What the allocators of CPUs, of other devices and of their libraries say, where it is no OutOfMemoryError."""


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
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in WORDS):
            raise
        # What ran out of memory hangs on the frames that it failed in, which the error of whoever handles this keeps.
        traceback.clear_frames(error.__traceback__)
        message = next(iter(str(error).strip().splitlines()), type(error).__name__)
    else:
        return
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
    raise MemoryError(message)
