"""What a single stage has in the place of a run: artifacts that come and go in pipes, and policies by their paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align_cli.artifacts.records import Record
from align_cli.artifacts.store import read_records
from align_cli.errors import RunError
from align_cli.run.folder.begun import MicroBatch
from align_cli.run.results import Results
from align_cli.stages.base import CHECKPOINT, Artifact, RecordType


@dataclass
class GivenPolicies:
    """The policies of a run's folder, but for those that are given by their paths."""

    results: Results
    given: dict[int, Path] = field(default_factory=dict)
    _micro_batches: dict[int, MicroBatch] = field(default_factory=dict)

    def base(self, round_number: int) -> int:
        return round_number if round_number in self.given else self.results.base(round_number)

    def checkpoint(self, round_number: int) -> Path | None:
        if round_number in self.given:
            return self.given[round_number]
        if round_number and not self.results.holds(Artifact(round_number, CHECKPOINT)):
            is_opponent = self.results.recipe.policy.reference == "initial"
            raise RunError(
                f"the previous policy, of round {round_number}, is not in the run's folder",
                where=str(self.results.recipe.output_dir),
                hint="evaluate against the initial policy alone: evaluate.against=[initial]"
                if is_opponent
                else "it is the reference: take a policy whose round before has a checkpoint in the run",
            )
        return self.results.checkpoint(round_number)

    def artifact(self, name: str) -> Path | None:
        return self.results.artifact(name)

    def is_kept(self, round_number: int) -> bool:
        return True  # `checkpoint` says what is not there

    def best_round(self) -> int | None:
        return None

    def has_same_optimizer(self, round_number: int) -> bool:
        return True

    def micro_batches(self) -> dict[int, MicroBatch]:
        return self._micro_batches

    def remember_micro_batch(self, round_number: int, micro_batch: MicroBatch) -> None:
        self._micro_batches[round_number] = micro_batch


@dataclass
class Pipes:
    """The artifacts of a single stage.

    Args:
        results: of the run's folder, for what was made there.
        given: records that the stage reads, by artifact.
        output: the folder that it writes, if it writes one.
    """

    results: Results
    given: Mapping[Artifact, Sequence[Record]]
    output: Path
    written: dict[str, Any] = field(default_factory=dict)

    def holds(self, artifact: Artifact) -> bool:
        return artifact in self.given

    def base(self, round_number: int) -> int:
        return self.results.base(round_number)

    def read(self, artifact: Artifact, kind: type[RecordType]) -> list[RecordType] | None:
        if artifact in self.given:
            return [record for record in self.given[artifact] if isinstance(record, kind)]
        path = self.results.still_true(artifact)
        return None if path is None else read_records(path, kind)

    def write(self, name: str, rows: Sequence[Record] | Sequence[dict[str, float]]) -> None:
        self.written[name] = list(rows)

    def write_document(self, name: str, record: Record) -> None:
        self.written[name] = record

    def is_same(self, name: str, rows: Sequence[dict[str, float]]) -> bool:
        return False

    @property
    def keeps_policy(self) -> bool:
        return True

    def place(self, name: str) -> Path:
        return self.output
