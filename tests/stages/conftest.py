"""Makes `at_work`, beside the tests, importable; and training short."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def no_garbage_in_libraries() -> Iterator[None]:
    """A trainer collects garbage when it is made and when it trains: half a second, were it to look at libraries."""
    import align_cli.training.trainer  # noqa: F401

    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gc, "unfreeze", lambda: None)
        yield
