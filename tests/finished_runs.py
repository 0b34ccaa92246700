"""What a finished run left, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from align_cli.artifacts.records import Completion, Preference
from align_cli.artifacts.store import read_records


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Args:
        folder: of the run.
    """

    folder: Path

    def completions(self, number: int) -> list[Completion]:
        return read_records(self.round(number) / "completions.jsonl", Completion)

    def preferences(self, number: int) -> list[Preference]:
        return read_records(self.round(number) / "preferences.jsonl", Preference)

    def round(self, number: int) -> Path:
        return self.folder / "rounds" / f"{number:03d}"
