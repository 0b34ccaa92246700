"""The stages of a round: each turns artifacts into artifacts and knows nothing of run folders or terminals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from align_cli.artifacts.journal import Journal

Journals = Callable[[str], Journal]
"""Where a stage keeps work in progress, by name: what was done before an interruption is in the journal already."""


def no_journals(name: str) -> Journal:
    """A journal that nobody resumes."""
    return Journal()


class Progress(Protocol):
    """Told by a stage how far it is; what becomes of that is the caller's business."""

    def start(self, total: int, unit: str) -> None:
        """Work begins: `total` units of it, such as 512 completions."""
        ...

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""
        ...


class NoProgress:
    """Progress that nobody watches."""

    def start(self, total: int, unit: str) -> None:
        """Nothing happens."""

    def advance(self, amount: int = 1) -> None:
        """Nothing happens."""
