"""What a recipe asks for, as ordered steps."""

from __future__ import annotations

from typing import NamedTuple

from align_cli import stages
from align_cli.recipe import Recipe


class Step(NamedTuple):
    """One stage of one round; round 0 is the initial policy."""

    round: int
    stage: str

    def __str__(self) -> str:
        return f"round {self.round} {self.stage}"


def plan_steps(recipe: Recipe) -> list[Step]:
    """Every step of a run in its order: in each round, the stages that are due."""
    return [
        Step(number, stage.name)
        for number in range(recipe.rounds + 1)
        for stage in stages.STAGES
        if stage.is_due(recipe, number)
    ]


def is_last_of_round(recipe: Recipe, step: Step) -> bool:
    """Whether a round is over when this step is finished."""
    due = [stage.name for stage in stages.STAGES if stage.is_due(recipe, step.round)]
    return step.stage == due[-1]
