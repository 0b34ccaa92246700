"""What a step took: its seconds by kind of work, the most memory that it had, the bytes that it wrote.

Timed while it runs, or read off what its run's ledger says of its end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.recipe import Recipe
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step
from align_cli.stages import stage_named
from align_cli.stages.base import CHECKPOINT, Amounts, Progress
from align_cli.training.checkpoints import OPTIMIZER_NAME

if TYPE_CHECKING:
    from align_cli.stages.inputs import Inputs


@dataclass(frozen=True)
class Phase:
    """Work of one kind within a step.

    Args:
        unit: what is counted.
        began: seconds since the step did.
        done: how much of it was done.
        seconds: from its beginning until the last piece was done.
        first: how much was done in the first piece.
        first_seconds: until then.
    """

    unit: str
    began: float
    done: int
    seconds: float
    first: int
    first_seconds: float

    @property
    def pace(self) -> float:
        """Seconds a unit. Of steps, those behind the first: before it comes what is done once a round."""
        if self.unit == "steps" and self.done > self.first:
            return (self.seconds - self.first_seconds) / (self.done - self.first)
        return self.seconds / self.done if self.done else 0.0


@dataclass(frozen=True)
class StepMeasure:
    """What a step took.

    Args:
        round: its round.
        stage: its stage.
        seconds: all of it.
        amounts: how much it had to do.
        phases: its work, in its order.
        memory: the most bytes that the process had.
        gpu_memory: the most bytes of tensors on the accelerator; None where there is none that counts.
        sizes: bytes of each artifact that it wrote, by name; the optimizer of a checkpoint stands apart.
        labelers: what labelers said of their work, by name.
    """

    round: int
    stage: str
    seconds: float
    amounts: Amounts
    phases: Sequence[Phase] = ()
    memory: int | None = None
    gpu_memory: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    labelers: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """What a small run took.

    Args:
        startup_seconds: from the process's beginning until the first step: libraries, and all rows of the recipe.
        startup_memory: the most bytes that it had until then.
        report_seconds: to write the report.
        report_bytes: of it, and its data.
        num_threads: that computed.
        steps: each of its steps.
    """

    startup_seconds: float
    startup_memory: int | None
    report_seconds: float
    report_bytes: int
    num_threads: int
    steps: Sequence[StepMeasure]

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        steps = [
            {**vars(step), "amounts": step.amounts.to_dict(), "phases": [vars(phase) for phase in step.phases]}
            for step in self.steps
        ]
        return {**vars(self), "steps": steps}

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Measurement:
        """What `to_dict` has made of one."""
        steps = [
            StepMeasure(
                **{
                    **step,
                    "amounts": Amounts(**step["amounts"]),
                    "phases": [Phase(**phase) for phase in step["phases"]],
                }
            )
            for step in tree["steps"]
        ]
        return cls(**{**tree, "steps": steps})


class Clock:
    """Progress that is timed, and passed on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._made = time.monotonic()
        self._begun: list[tuple[str, float, list[tuple[float, int]]]] = []

    def start(self, total: int, unit: str) -> None:
        """Work begins."""
        self._progress.start(total, unit)
        self._begun.append((unit, time.monotonic(), []))

    def advance(self, amount: int = 1) -> None:
        """Some of it is done."""
        self._progress.advance(amount)
        self._begun[-1][2].append((time.monotonic(), amount))

    def found(self, amount: int) -> None:
        """Some of it was done before, as what is kept by content."""
        self._progress.found(amount)

    def phases(self) -> list[Phase]:
        """What was timed."""
        return [_phase(unit, began - self._made, began, pieces) for unit, began, pieces in self._begun if pieces]


def measure_of(
    folder: RunFolder, event: Mapping[str, Any], recipe: Recipe, inputs: Inputs, phases: Sequence[Phase] = ()
) -> StepMeasure:
    """What a step took, by what its run's ledger says of its end.

    Args:
        folder: of the run.
        event: the ledger's.
        recipe: what the step had to do.
        inputs: its rows.
        phases: its work, where that was timed.
    """
    step = Step(event["round"], event["stage"])
    return StepMeasure(
        step.round,
        step.stage,
        event["seconds"],
        amounts_of(step, recipe, inputs),
        phases,
        event.get("peak_memory_bytes"),
        event.get("peak_gpu_memory_bytes"),
        _sizes_of(folder, step),
        (event.get("figures") or {}).get("labelers") or {},
    )


def amounts_of(step: Step, recipe: Recipe, inputs: Inputs) -> Amounts:
    """How much a step has to do, by what the recipe says of its round."""
    return stage_named(step.stage).amounts(recipe.of_round(step.round), inputs, step.round)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all below a folder; 0 of what is not there."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _sizes_of(folder: RunFolder, step: Step) -> dict[str, int]:
    """Bytes of each artifact that a step wrote and that is there; the optimizer of a checkpoint stands apart."""
    names = [name for name in stage_named(step.stage).writes if folder.layout.artifact(step.round, name).exists()]
    sizes = {name: size_of(folder.layout.artifact(step.round, name)) for name in names}
    optimizer = folder.layout.artifact(step.round, f"{CHECKPOINT}/{OPTIMIZER_NAME}")
    if CHECKPOINT in sizes and optimizer.is_file():
        sizes[OPTIMIZER_NAME] = size_of(optimizer)
        sizes[CHECKPOINT] -= sizes[OPTIMIZER_NAME]
    return sizes


def _phase(unit: str, since: float, began: float, pieces: Sequence[tuple[float, int]]) -> Phase:
    (first_time, first), done = pieces[0], sum(amount for _, amount in pieces)
    return Phase(unit, since, done, pieces[-1][0] - began, first, first_time - began)
