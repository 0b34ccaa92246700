"""`checkpoints`: what stays on disk of a run's training."""

from __future__ import annotations

from pydantic import Field

from align_cli.recipe.sections.base import Section


class CheckpointsSection(Section):
    """`checkpoints`: how much work a kill can cost, and how many rounds' checkpoints stay."""

    every_steps: int | None = Field(
        None, ge=1, description="optimizer steps between checkpoints within a round; unset: none but at its end"
    )
    keep: int | None = Field(
        None, ge=1, description="latest rounds whose checkpoints stay, besides the initial and the best one; unset: all"
    )
