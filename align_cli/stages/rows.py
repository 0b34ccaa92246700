"""Whether the policy can read every row of a recipe: asked once its tokenizer is there, and before any weights are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from align_cli.errors import DataError
from align_cli.models.load import load_without_weights
from align_cli.recipe import Recipe
from align_cli.stages.base import Stage
from align_cli.stages.inputs import Inputs
from align_cli.stages.sft import unloaded_initial_policy


def check_rows(recipe: Recipe, inputs: Inputs, due: Sequence[Stage], checkpoint: Path | None = None) -> list[str]:
    """Render and measure every row that some stages read.

    Args:
        recipe: the whole recipe.
        inputs: its rows.
        due: the stages.
        checkpoint: the policy's folder, or any model's; None is the initial policy.

    Returns:
        What a user should know of how the policy reads them, one sentence each.

    Raises:
        AlignError: if the policy's tokenizer or configuration cannot be read.
        DataError: for all rows that the policy cannot read, in one fault a kind.
    """
    policy = unloaded_initial_policy(recipe) if checkpoint is None else load_without_weights(recipe, checkpoint)
    faults = [fault for stage in due for fault in stage.unreadable_rows(recipe, inputs, policy)]
    if faults:
        raise DataError.of(faults)
    return []
