"""What a run will take: steps, pairs, tokens, questions to labelers, time, memory and disk, step by step.

How much there is to do, the stages say. What it takes is told by what was measured: a small run (`measure`), or the
rounds of this run that are over. Time is a pace times the amount, for each kind of work within a step; what a step does
before its work begins, or to write a checkpoint, is not multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from align_cli.recipe import Recipe
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step, plan_steps
from align_cli.run.sizes import ModelSize, artifact_sizes
from align_cli.run.step_measures import Measurement, Phase, StepMeasure, amounts_of, measure_of
from align_cli.stages.base import CHECKPOINT, HELD_OUT_LOGPS, REFERENCE_LOGPS, SAMPLES, Amounts
from align_cli.training.checkpoints import OPTIMIZER_NAME

if TYPE_CHECKING:
    from align_cli.stages.inputs import Inputs

REPORT_ALONE = 125_000
"""Bytes of a report, and its data, that tell of no response."""
OF_PAIRS = (REFERENCE_LOGPS, HELD_OUT_LOGPS)
"""Artifacts that grow with the pairs that a model is asked about."""


@dataclass(frozen=True)
class StepForecast:
    """What a step will take.

    Args:
        step: which.
        amounts: how much it has to do, at most.
        seconds: None where nothing was measured.
        memory: the most bytes of the process; None where nothing was measured.
        gpu_memory: the most bytes on the accelerator; None where nothing was measured.
        sizes: bytes of its artifacts, by name.
        labelers: what labelers will have done, by name and figure, such as `calls`; empty where nothing was measured.
    """

    step: Step
    amounts: Amounts
    seconds: float | None
    memory: int | None
    gpu_memory: int | None
    sizes: Mapping[str, float]
    labelers: Mapping[str, Mapping[str, float]]


def forecast_steps(
    recipe: Recipe, inputs: Inputs, steps: Sequence[Step], model: ModelSize, measured: Sequence[StepMeasure]
) -> list[StepForecast]:
    """What each of the steps will take.

    Args:
        recipe: the whole recipe.
        inputs: its rows.
        steps: those that are left.
        model: bytes of a checkpoint, where that was not measured.
        measured: what is known of steps like these.
    """
    return [_forecast(step, amounts_of(step, recipe, inputs), model, measured) for step in steps]


def past_steps(folder: RunFolder, recipe: Recipe, inputs: Inputs) -> list[StepMeasure]:
    """What the steps of a run took that are over, by its ledger; none of a run that has not begun."""
    found, known = {}, {step.stage for step in plan_steps(recipe)}
    for event in folder.ledger.events() if folder.exists else ():
        number, stage = event["round"], event["stage"]
        if event["event"] == "finish" and stage in known:
            found[number, stage] = measure_of(folder, event, recipe, inputs)
    return list(found.values())


def disk_at_end(recipe: Recipe, steps: Sequence[StepForecast]) -> float:
    """Bytes that stay of what the steps write: of checkpoints those that are kept, and the newest optimizer's state."""
    trained = [one.step.round for one in steps if CHECKPOINT in one.sizes and one.step.round]
    every, keep = recipe.checkpoints.every_rounds, recipe.checkpoints.keep
    kept = [number for number in trained if number % every == 0 or number == recipe.rounds]
    if keep is not None:
        kept = kept[-keep - 1 :]  # besides the latest, the best
    with_optimizer = kept if recipe.checkpoints.optimizer == "all" else kept[-1:]
    return sum(
        size
        for one in steps
        for name, size in one.sizes.items()
        if not (name == CHECKPOINT and one.step.round and one.step.round not in kept)
        and not (name == OPTIMIZER_NAME and one.step.round not in with_optimizer)
    )


def report_bytes(measurement: Measurement, steps: Sequence[StepForecast]) -> float:
    """Of the report at the run's end: it grows with the responses that it shows."""
    shown = sum(step.sizes.get(SAMPLES, 0) for step in measurement.steps)
    will_be = sum(step.sizes.get(SAMPLES, 0.0) for step in steps)
    alone = min(REPORT_ALONE, measurement.report_bytes)
    return alone + (measurement.report_bytes - alone) * (will_be / shown if shown else 1.0)


def _forecast(step: Step, amounts: Amounts, model: ModelSize, measured: Sequence[StepMeasure]) -> StepForecast:
    like = _like(step, measured)
    if like is None:
        return StepForecast(step, amounts, None, None, None, artifact_sizes(step, amounts, model), {})
    same = [one for one in measured if one.stage == step.stage]
    following = next((one for one in same if one.round > like.round), None) if same[0] is like else None
    return StepForecast(
        step,
        amounts,
        _seconds(like, following, amounts),
        max((one.memory for one in same if one.memory is not None), default=None),
        max((one.gpu_memory for one in same if one.gpu_memory is not None), default=None),
        _sizes(like, amounts),
        {name: _times(figures, _ratio("", like, amounts)) for name, figures in like.labelers.items()},
    )


def _like(step: Step, measured: Sequence[StepMeasure]) -> StepMeasure | None:
    """What was measured of a step like this: of its own round, else of the latest; round 0 has others to do."""
    same = [one for one in measured if one.stage == step.stage and bool(one.round) == bool(step.round)]
    return next((one for one in same if one.round == step.round), same[-1] if same else None)


def _seconds(like: StepMeasure, following: StepMeasure | None, amounts: Amounts) -> float:
    """How long a step takes that has so much to do.

    Args:
        like: one like it.
        following: the stage's next one, where this was its first: that is no slower once it is warm.
        amounts: what it has to do.
    """
    warm = {} if following is None else _phases(following)
    worked = {
        key: min(phase.pace, warm[key].pace if key in warm else phase.pace) * phase.done
        for key, phase in _phases(like).items()
    }
    rest = max(like.seconds - sum(worked.values()), 0.0)
    grows = min(_growing_rest(like), rest)
    if following is not None:
        grows = min(grows, _growing_rest(following) * _ratio("", following, like.amounts))
    work = sum(seconds * _ratio(unit, like, amounts) for (unit, _), seconds in worked.items())
    return work + grows * _ratio("", like, amounts) + rest - grows


def _phases(step: StepMeasure) -> dict[tuple[str, int], Phase]:
    """The work within a step by what is counted, and by which of those that count it."""
    found: dict[tuple[str, int], Phase] = {}
    for phase in step.phases:
        found[phase.unit, sum(unit == phase.unit for unit, _ in found)] = phase
    return found


def _growing_rest(step: StepMeasure) -> float:
    """Seconds besides what is counted that grow with it, as texts are read and written; not those of a checkpoint."""
    if CHECKPOINT in step.sizes or not step.phases:
        return 0.0
    worked = sum(phase.pace * phase.done for phase in step.phases)
    return max(step.seconds - worked - step.phases[0].began, 0.0)


def _ratio(unit: str, like: StepMeasure, amounts: Amounts) -> float:
    """How many times as much there is of what is counted in this unit; of the step's own, where it is none of these."""
    if unit == "pairs" and like.amounts.asked:
        return amounts.asked / like.amounts.asked
    for name in ("steps", "responses", "pairs"):
        if there := getattr(like.amounts, name):
            return float(getattr(amounts, name) / there)
    return 1.0


def _sizes(like: StepMeasure, amounts: Amounts) -> dict[str, float]:
    sizes = {}
    for name, size in like.sizes.items():
        is_list = name.endswith(".jsonl")
        sizes[name] = size * (_ratio("pairs" if name in OF_PAIRS else "", like, amounts) if is_list else 1.0)
    return sizes


def _times(figures: Mapping[str, float], ratio: float) -> dict[str, float]:
    return {name: value * ratio for name, value in figures.items() if isinstance(value, int | float)}
