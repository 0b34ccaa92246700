"""`checkpoints`: what stays on disk of a run's training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section


class CheckpointsSection(Section):
    """`checkpoints`: how much work a kill can cost, and how many rounds' checkpoints stay."""

    every_rounds: int = Field(
        1,
        ge=1,
        description="rounds between checkpoints; what a round trained since is trained again when a killed run goes on",
    )
    every_steps: int | None = Field(
        None, ge=1, description="optimizer steps between checkpoints within a round; unset: none but at its end"
    )
    keep: int | None = Field(
        None, ge=1, description="latest rounds whose checkpoints stay, besides the initial and the best one; unset: all"
    )
    optimizer: Literal["newest", "all"] = Field(
        "newest",
        description="whose checkpoints hold the optimizer's state, which is two thirds of one: the newest alone (and "
        "the best round's where a guard may roll back), or all",
    )
