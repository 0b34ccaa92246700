"""Commands of several processes: the first leads, as a command of one process does, and all others follow it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from align_cli.cli.output import end_at_once
from align_cli.errors import RunError

if TYPE_CHECKING:
    from align_cli.launch.crew import Crew
    from align_cli.recipe import Recipe
    from align_cli.run.opening import Reporter

COMMANDS = ("train", "generate", "label", "evaluate", "reward")
"""Those that a launcher may start several times over."""


def followed(arguments: list[str]) -> bool:
    """Follow to the end, if this process is one that a launcher has started to; whether it was."""
    if not os.environ.get("WORLD_SIZE") or not any(command in arguments[:1] for command in COMMANDS):
        return False
    from align_cli.launch.world import this_world

    world = this_world()
    if world is None or world.rank == 0:
        return False
    from align_cli.launch.follower import follow

    follow(world)
    return True


def check_alone(what: str) -> None:
    """Refuse what one process does where a launcher has started several, of which the others would wait for nothing.

    Args:
        what: is done, as `--smoke`.

    Raises:
        RunError: if it has.
    """
    from align_cli.launch.world import this_world

    if (world := this_world()) is not None:
        raise RunError(
            f"{what} is for one process, and a launcher has started {world.number}",
            where=what,
            hint="start it without accelerate launch, torchrun or srun",
        )


@contextmanager
def crew_for(recipe: Recipe, reporter: Reporter, *, isolates: bool = False) -> Iterator[Crew | None]:
    """The processes beside this one, as a recipe or a launcher has them; None for none.

    On every other machine than the first, the processes of this one follow, and the block is not entered.

    Args:
        recipe: the whole recipe.
        reporter: shown what happens.
        isolates: whether each step has a process of its own, which has the others.

    Raises:
        RunError: for isolated steps of processes that another has started, or on several machines.
    """
    from align_cli.launch.crew import crew_of
    from align_cli.launch.world import own_world, this_world

    told = this_world()
    own = own_world(recipe) if told is None else None
    if isolates:
        if told is not None or recipe.launch.config.num_machines > 1:
            raise RunError(
                "the processes of a launcher, or of several machines, stay from stage to stage",
                where="launch.isolate",
                hint="leave it out; or let align start all processes, on one machine",
            )
        yield None
        return
    if own is not None and own.rank:
        from align_cli.launch.follower import follow_on_this_machine

        reporter.note(f"machine {recipe.launch.config.machine_rank} follows {own.address}")
        follow_on_this_machine(own, own.number // recipe.launch.config.num_machines)
        raise typer.Exit
    crew = crew_of(recipe, reporter.note, end_at_once, told)
    if crew is None:
        yield None
        return
    with crew:
        yield crew
