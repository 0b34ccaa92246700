"""Runs in the test's own process: where something has to go wrong in the midst of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from align_cli.cli.reporters import RunReporter
from align_cli.recipe import load_recipe
from align_cli.run.loop import align_rounds
from align_cli.training.resumable import _BeginAndEnd


class Notes(RunReporter):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def train(*overrides: str, **settings: Any) -> list[str]:
    """Run the recipe of the current folder in this process; what it says."""
    notes = Notes()
    align_rounds(load_recipe("recipe.yaml", overrides), notes, **settings)
    return notes.lines


@contextmanager
def killed_at_step(monkeypatch: pytest.MonkeyPatch, nth: int) -> Iterator[None]:
    """A process that ends in the midst of a training step, the `nth` of those that it does."""
    on_step_end, calls = _BeginAndEnd.on_step_end, 0

    def counting(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise KeyboardInterrupt
        on_step_end(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(_BeginAndEnd, "on_step_end", counting)
        with pytest.raises(KeyboardInterrupt):
            yield
