"""What a recipe asks for, as ordered steps."""

from __future__ import annotations

from typing import Literal, NamedTuple

from align_cli.recipe import Recipe
from align_cli.stages.sft import makes_policy

Stage = Literal["sft", "generate", "label", "train", "evaluate"]


class Step(NamedTuple):
    """One stage of one round; round 0 is the initial policy."""

    round: int
    stage: Stage

    def __str__(self) -> str:
        return f"round {self.round} {self.stage}"


def plan_steps(recipe: Recipe) -> list[Step]:
    """Every step of a run in its order.

    Round 0 makes the initial policy, where it has to be made, and evaluates it. Later rounds generate and label only
    where a source samples the policy, and evaluate only where there are held-out prompts.
    """
    evaluates = recipe.data.eval_prompts is not None
    steps: list[Step] = []
    if makes_policy(recipe):
        steps.append(Step(0, "sft"))
    if evaluates:
        steps.append(Step(0, "evaluate"))
    for number in range(1, recipe.rounds + 1):
        stages: list[Stage] = ["generate", "label"] if recipe.is_online else []
        stages += ["train", "evaluate"] if evaluates else ["train"]
        steps += [Step(number, stage) for stage in stages]
    return steps
