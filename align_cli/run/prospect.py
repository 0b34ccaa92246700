"""What `align plan` tells: what is left of a run, how much, and what it will take of time, memory, disk and money."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.errors import AlignError
from align_cli.labelers.judge.spending import cost
from align_cli.recipe import Recipe, load_recipe
from align_cli.recipe.sections.engine_server import SERVER
from align_cli.recipe.sections.labelers.judge import JudgeLabelerSection
from align_cli.run.folder import RunFolder
from align_cli.run.forecast import StepForecast, disk_at_end, forecast_steps, past_steps, report_bytes
from align_cli.run.foresight import foresee
from align_cli.run.measure import measure
from align_cli.run.opening import Reporter
from align_cli.run.plan import Step, partner, plan_steps
from align_cli.run.results import Results
from align_cli.run.sizes import model_size
from align_cli.run.standing import remaining_steps
from align_cli.run.step_measures import Measurement, size_of

BESIDE = (
    "servers sample while the round before trains (generate.rounds_ahead): of the two the longer one counts; memory is "
    "that of one process, and meanwhile there is another with a copy of the policy"
)


class Spent(NamedTuple):
    """What the part of a run took that is over.

    Args:
        num_steps: finished ones.
        seconds: all of them together.
        memory: the most bytes of a step; None where that is not known.
        disk: bytes of the run's folder now.
    """

    num_steps: int
    seconds: float
    memory: int | None
    disk: int


class LabelerForecast(NamedTuple):
    """What a labeler will be asked.

    Args:
        name: its name.
        kind: of labeler.
        questions: completions or pairs, at most.
        requests: that these take; 0 where it answers in this process.
        tokens: of prompts and answers, as measured; None where that was not.
        money: in the currency of its `price`; None without one, or without a measurement.
    """

    name: str
    kind: str
    questions: int
    requests: int
    tokens: float | None = None
    money: float | None = None


@dataclass(frozen=True)
class Prospect:
    """What is left of a run.

    Args:
        recipe: the whole recipe.
        outlook: where it begins or goes on, one line each.
        notes: what a user should know of it.
        steps: those that are left, each with what it will take.
        spent: what is over; None of a run that has not begun.
        measurement: what was measured; None without `--measure`.
        labelers: what each is asked in the steps that are left.
    """

    recipe: Recipe
    outlook: list[str]
    notes: list[str]
    steps: list[StepForecast]
    spent: Spent | None
    measurement: Measurement | None
    labelers: list[LabelerForecast]

    @property
    def seconds(self) -> float | None:
        """Of all that is left, start and report too; None where those of a step are not known, or nothing is left."""
        known = [one.seconds for one in self.steps if one.seconds is not None]
        around = self.measurement.startup_seconds + self.measurement.report_seconds if self.measurement else 0.0
        if not self.steps or len(known) < len(self.steps):
            return None
        return sum(known) + around - _seconds_beside(self.recipe, self.steps)

    @property
    def memory(self) -> int | None:
        """The most bytes of the process; None where nothing is known."""
        start = self.measurement.startup_memory if self.measurement else None
        return max((one for one in (start, *(step.memory for step in self.steps)) if one is not None), default=None)

    @property
    def gpu_memory(self) -> int | None:
        """The most bytes on the accelerator; None where there is none, or nothing is known."""
        return max((step.gpu_memory for step in self.steps if step.gpu_memory is not None), default=None)

    @property
    def disk(self) -> float:
        """Bytes that what is left adds to the run's folder."""
        report = report_bytes(self.measurement, self.steps) if self.measurement else 0.0
        return disk_at_end(self.recipe, self.steps) + report

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        total = {"seconds": self.seconds, "memory": self.memory, "gpu_memory": self.gpu_memory, "disk": self.disk}
        return {
            "outlook": self.outlook,
            "notes": self.notes,
            "steps": [_step_dict(step) for step in self.steps],
            "labelers": [labeler._asdict() for labeler in self.labelers],
            "total": total,
            "spent": None if self.spent is None else self.spent._asdict(),
            "measured": None if self.measurement is None else self.measurement.to_dict(),
        }


def prospect_of(path: Path, overrides: Sequence[str], reporter: Reporter | None = None) -> Prospect:
    """Look ahead; nothing is written.

    Args:
        path: the recipe's file.
        overrides: as for `load_recipe`.
        reporter: shown what is measured; None measures nothing, and loads no weights.

    Raises:
        AlignError: for everything that `align train` would be refused for, or that a measurement fails of.
    """
    recipe = load_recipe(path, overrides)
    foreseen = foresee(recipe)
    folder, plan = RunFolder(recipe.output_dir), plan_steps(recipe)
    left, begins = remaining_steps(folder, recipe, plan), None
    past = past_steps(folder, recipe, foreseen.inputs)
    measurement, notes = None, list(foreseen.notes)
    if reporter is not None and left:
        begins = _goes_on_from(recipe, folder, left)
        measurement = measure(path, overrides, reporter, begins)
        notes += _caveats(recipe, measurement, begins)
    steps = forecast_steps(
        recipe, foreseen.inputs, left, model_size(recipe, foreseen.inputs), measurement.steps if measurement else past
    )
    if _seconds_beside(recipe, steps):
        notes.append(BESIDE)
    spent = Spent(
        len(plan) - len(left),
        sum(step.seconds for step in past),
        max((step.memory for step in past if step.memory is not None), default=None),
        size_of(folder.path),
    )
    labelers = _labelers(recipe, steps)
    return Prospect(recipe, foreseen.outlook, notes, steps, spent if folder.exists else None, measurement, labelers)


def _goes_on_from(recipe: Recipe, folder: RunFolder, left: Sequence[Step]) -> Path | None:
    """The newest checkpoint of a run that has begun; None where it has none, and of one that begins."""
    results = Results(recipe, folder)
    for number in range(left[0].round, -1, -1):
        with suppress(AlignError):  # of one that was let go
            if folder.exists and results.is_kept(number) and (found := results.checkpoint(number)) is not None:
                return found
    return None


def _seconds_beside(recipe: Recipe, steps: Sequence[StepForecast]) -> float:
    """Of all steps, those in which another one is at work beside, as servers sample while the round before trains."""
    if recipe.generate.engine != SERVER:
        return 0.0
    seconds = {one.step: one.seconds or 0.0 for one in steps}
    pairs = [(step, training) for step in seconds if (training := partner(recipe, step)) is not None]
    every = recipe.checkpoints.every_rounds  # a round that left no checkpoint has the two one after the other
    return sum(min(seconds[one], seconds.get(other, 0.0)) for one, other in pairs if (other.round - 1) % every == 0)


def _caveats(recipe: Recipe, measurement: Measurement, begins: Path | None) -> list[str]:
    """What the measurement does not know."""
    notes, sft = [], recipe.policy.sft
    warm = [step.amounts.steps for step in measurement.steps if step.stage == "sft"]
    if sft is not None and warm and warm[-1] < sft.max_steps and begins is None:
        notes.append(
            f"responses were measured after {warm[-1]} of {sft.max_steps} steps of the warm start: if they are of "
            "another length in the end, so is the time"
        )
    if (recipe.launch.config.num_processes or 1) > 1:
        notes.append(f"measured in one process; launch.num_processes is {recipe.launch.config.num_processes}")
    if any(recipe.labelers[name].kind == "person" for name in recipe.labelers):
        notes.append("people's time is not in it")
    return notes


def _labelers(recipe: Recipe, steps: Sequence[StepForecast]) -> list[LabelerForecast]:
    questions: Counter[str] = Counter()
    figures: dict[str, Counter[str]] = {}
    for step in steps:
        questions.update(step.amounts.questions)
        for name, found in step.labelers.items():
            figures.setdefault(name, Counter()).update({key: float(value) for key, value in found.items()})
    return [_labeler(recipe, name, count, figures.get(name)) for name, count in questions.items()]


def _labeler(recipe: Recipe, name: str, questions: int, figures: Counter[str] | None) -> LabelerForecast:
    section = recipe.labelers[name]
    requests = questions * section.num_requests
    if figures is None or not figures.get("calls"):
        return LabelerForecast(name, section.kind, questions, requests)
    prompt, answer = figures["prompt_tokens"], figures["completion_tokens"]
    price = section.price if isinstance(section, JudgeLabelerSection) else None
    money = None if price is None else cost(price, prompt, answer)
    return LabelerForecast(name, section.kind, questions, requests, prompt + answer, money)


def _step_dict(one: StepForecast) -> dict[str, Any]:
    return {
        "round": one.step.round,
        "stage": one.step.stage,
        **one.amounts.to_dict(),
        "seconds": one.seconds,
        "memory": one.memory,
        "gpu_memory": one.gpu_memory,
        "sizes": dict(one.sizes),
    }
