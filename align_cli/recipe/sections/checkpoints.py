"""`checkpoints`: what stays on disk of a run's training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe


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
    sharded: bool | None = Field(
        None,
        description="whether, of a model that launch splits over processes (fsdp2), each process writes its own part "
        "of what is kept within a round (every_steps), where else rank 0 gathers and writes it all; read by any number "
        "of processes. A round's end is a whole checkpoint either way, and adapters are. Left out: as "
        "launch.accelerate_config says (fsdp_state_dict_type), else no",
    )
    keep: int | None = Field(
        None, ge=1, description="latest rounds whose checkpoints stay, besides the initial and the best one; unset: all"
    )
    optimizer: Literal["newest", "all"] = Field(
        "newest",
        description="whose checkpoints hold the optimizer's state, which is two thirds of one: the newest alone (and "
        "the best round's where a guard may roll back), or all",
    )


def _nothing_to_shard(recipe: Recipe) -> list[str]:
    checkpoints = recipe.checkpoints
    if checkpoints.sharded and checkpoints.every_steps is None:
        what = "checkpoints.sharded is about checkpoints within a round, of which there are none"
        return [f"{what}: set checkpoints.every_steps"]
    if checkpoints.sharded and recipe.policy.lora is not None:
        return ["checkpoints.sharded with policy.lora: adapters are small, and gathered all the same"]
    return []


WARNINGS = (_nothing_to_shard,)
