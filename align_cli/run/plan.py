"""What a recipe asks for, as ordered steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from align_cli import stages
from align_cli.recipe import Recipe
from align_cli.stages.base import TRAINING


class Step(NamedTuple):
    """One stage of one round; round 0 is the initial policy."""

    round: int
    stage: str

    def __str__(self) -> str:
        return f"round {self.round} {self.stage}"


def plan_steps(recipe: Recipe) -> list[Step]:
    """Every step of a run in its order: in each round, the stages that are due.

    What a round has done ahead comes before the training of the round before, so that the policy in memory is the one
    that it needs, in whichever way the two are carried out.
    """
    return [step for number in range(recipe.rounds + 1) for step in _of_round(recipe, number)]


def partner(recipe: Recipe, step: Step) -> Step | None:
    """The training that a step which is ahead of its round may be carried out beside; None for any other step."""
    return Step(step.round - 1, _training()) if _is_ahead(recipe, step) else None


def is_last_of_round(recipe: Recipe, step: Step) -> bool:
    """Whether a round is over when this step is finished."""
    return step == last_of_round(recipe, step.round)


def last_of_round(recipe: Recipe, round_number: int) -> Step:
    """The step by which a round is over."""
    return [step for step in _due(recipe, round_number) if not _is_ahead(recipe, step)][-1]


def _of_round(recipe: Recipe, round_number: int) -> Iterator[Step]:
    for step in _due(recipe, round_number):
        if step.stage == _training() and round_number < recipe.rounds:
            yield from (later for later in _due(recipe, round_number + 1) if _is_ahead(recipe, later))
        if not _is_ahead(recipe, step):
            yield step


def _due(recipe: Recipe, round_number: int) -> list[Step]:
    return [Step(round_number, stage.name) for stage in stages.STAGES if stage.is_due(recipe, round_number)]


def _is_ahead(recipe: Recipe, step: Step) -> bool:
    return stages.stage_named(step.stage).is_ahead(recipe, step.round)


def _training() -> str:
    """The stage that trains in a round; a warm start before the first comes before it."""
    return [stage.name for stage in stages.STAGES if TRAINING in stage.writes][-1]
