"""What a stage has around it when it is at work, in memory: artifacts by name, policies by their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align_cli.recipe import Recipe
from align_cli.run.folder.begun import MicroBatch
from align_cli.run.loaded import Loaded
from align_cli.stages.base import Artifact, Context, NoWork, Work


class Held:
    """The artifacts of a step.

    Args:
        place: its folders lie there.
        held: what it may read.
        keeps_policy: whether its round ends with a checkpoint.
    """

    def __init__(self, place: Path, held: dict[Artifact, list[Any]] | None = None, *, keeps_policy: bool = True):
        self.held, self.keeps_policy = held or {}, keeps_policy
        self.written: dict[str, Any] = {}
        self._place = place

    def holds(self, artifact: Artifact) -> bool:
        return artifact in self.held

    def base(self, round_number: int) -> int:
        return round_number

    def read(self, artifact: Artifact, kind: type) -> list[Any] | None:
        found = self.held.get(artifact)
        assert found is None or all(isinstance(record, kind) for record in found)
        return found

    def write(self, name: str, rows: Sequence[Any]) -> None:
        self.written[name] = list(rows)

    def write_document(self, name: str, record: Any) -> None:
        self.written[name] = record

    def is_same(self, name: str, rows: Sequence[dict[str, float]]) -> bool:
        return bool(self.written.get(name) == list(rows))

    def place(self, name: str) -> Path:
        return self._place / name


class Folders:
    """Where the policies of some rounds lie; those of the others have to be trained again."""

    def __init__(self, folders: dict[int, Path], best: int | None = None) -> None:
        self.folders, self.best = folders, best
        self.cut: dict[int, MicroBatch] = {}

    def base(self, round_number: int) -> int:
        return round_number

    def is_kept(self, round_number: int) -> bool:
        return round_number in self.folders

    def checkpoint(self, round_number: int) -> Path:
        return self.folders[round_number]

    def artifact(self, name: str) -> Path | None:
        place = self.folders[0] / name if 0 in self.folders else None
        return place if place is not None and place.exists() else None

    def best_round(self) -> int | None:
        return self.best

    def has_same_optimizer(self, round_number: int) -> bool:
        return True

    def micro_batches(self) -> dict[int, MicroBatch]:
        return self.cut

    def remember_micro_batch(self, round_number: int, micro_batch: MicroBatch) -> None:
        self.cut[round_number] = micro_batch


class Told:
    """Progress that keeps what it is told; a process that is killed is so at some step, or response."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.told: list[Any] = []
        self._left, self._unit = killed_at, ""

    def start(self, total: int, unit: str) -> None:
        self._unit = unit
        self.told.append((total, unit))

    def found(self, amount: int) -> None:
        self.told.append(("found", amount))

    def advance(self, amount: int = 1) -> None:
        self.told.append(amount)
        if self._left is not None and self._unit != "pairs":
            self._left -= amount
        if self._left == 0:
            raise KeyboardInterrupt


class AtWork(Context):
    """A stage's surroundings, as of a process that has just begun; `said` is what it noted, `told` its progress."""

    def __init__(
        self,
        recipe: Recipe,
        policies: Folders,
        artifacts: Held,
        *,
        round_number: int = 1,
        work: Work | None = None,
        killed_at: int | None = None,
    ) -> None:
        self.said: list[str] = []
        self.held, self.policies, self.watched = artifacts, policies, Told(killed_at)
        self.memory = Loaded(recipe, policies, self.said.append)
        super().__init__(recipe, round_number, artifacts, self.memory, work or NoWork(), self.watched, self.said.append)
