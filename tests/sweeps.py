"""Many cases of one test: a few, one of a kind, run wherever the test does, the others in `make test-sweeps`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def swept(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """The cases as parameters, all but those that are kept marked as a sweep's.

    Args:
        cases: of one argument each, or tuples of several.
        kept: some of the cases; none where the test as a whole is a sweep.

    Raises:
        ValueError: if a kept one is none of the cases.
    """
    cases = list(cases)
    if unknown := [case for case in kept if case not in cases]:
        raise ValueError(f"not among the cases: {unknown}")
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if case in kept else pytest.mark.sweep)
        for case in cases
    ]
