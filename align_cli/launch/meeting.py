"""Processes find each other at a place, and are joined there.

Two groups of torch's: one for what is computed together, whose members wait for one another for as long as
`launch.timeout_seconds`; and one for the leader's word, which may be hours in coming.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from align_cli.errors import RunError
from align_cli.launch.causes import Causes
from align_cli.launch.world import HERE, World
from align_cli.training.ranks import Ranks

LONG = timedelta(days=20)
"""As long as torch can count in milliseconds; no word of the leader takes so long."""

PATIENCE = timedelta(minutes=10)
"""How long a process looks for the meeting place, and the place waits for processes."""

LOOK_SECONDS = 0.2
PORT = "launch.main_process_port"


class Meeting(NamedTuple):
    """Processes that have found each other, as one of them sees it.

    Args:
        world: who they are.
        ranks: what they say to each other when they compute.
        words: the group for the leader's word.
        causes: why they end.
        store: the meeting place; it is open as long as this is.
    """

    world: World
    ranks: Ranks
    words: Any
    causes: Causes
    store: Any

    def say(self, word: Any) -> None:
        """The leader's word to all others."""
        dist.broadcast_object_list([word], 0, group=self.words)

    def hear(self) -> Any:
        """Wait for it."""
        heard: list[Any] = [None]
        dist.broadcast_object_list(heard, 0, group=self.words)
        return heard[0]

    def answers(self, own: Any) -> list[Any]:
        """What each process answers, by rank; the leader alone gets to know."""
        found: list[Any] | None = [None] * self.world.number if self.world.rank == 0 else None
        dist.gather_object(own, found, 0, group=self.words)
        return found or []

    def close(self) -> None:
        """Part, when all is said."""
        dist.destroy_process_group()


def open_place(world: World) -> Any:
    """The meeting place of a world, which the process that leads keeps unless somebody else does.

    Raises:
        RunError: if its port is taken, if its address is not this machine's, or if nobody keeps it.
    """
    keeps = world.rank == 0 and not world.is_agents
    try:
        return dist.TCPStore(
            world.address, world.port, is_master=keeps, wait_for_workers=False, timeout=LONG if keeps else PATIENCE
        )
    except (dist.DistNetworkError, dist.DistStoreError, RuntimeError, ValueError) as error:
        raise _no_place(world, keeps, str(error)) from None


def _no_place(world: World, keeps: bool, words: str) -> RunError:
    place = f"{world.address}:{world.port}"
    if keeps and "in use" in words:
        hint = "end what uses it, or name another one"
        if world.address == HERE:
            hint += "; left out, any free one is taken"
        return RunError(f"the processes of the run cannot meet at {place}: the port is in use", where=PORT, hint=hint)
    first = words.strip().splitlines()[0] if words.strip() else "no answer"
    what = "cannot be opened" if keeps else "is not there"
    hint = "look at launch.main_process_ip and launch.main_process_port, and whether rank 0 is at work"
    return RunError(f"the meeting place {place} {what}: {first}", where="launch.main_process_ip", hint=hint)


def meet(
    world: World, store: Any, timeout_seconds: int | None, are_alive: Callable[[], None] = lambda: None
) -> Meeting:
    """Join all processes of a world.

    Args:
        world: as this process sees it.
        store: the meeting place.
        timeout_seconds: how long they wait for one another; the leader's word, None for all others.
        are_alive: called while the leader waits; raises where it waits in vain.

    Raises:
        RunError: if some do not come.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        torch.accelerator.set_device_index(world.local_rank % max(torch.accelerator.device_count(), 1))
    own = dist.PrefixStore(world.name, store)
    if timeout_seconds is not None:
        own.set("timeout", str(timeout_seconds))
        _wait_for_all(world, own, are_alive)
    else:
        own.set(f"here {world.rank}", "")
        own.set_timeout(LONG)
        timeout_seconds = int(own.get("timeout"))
    backend = "gloo"
    if accelerator is not None:
        backend += f",{accelerator.type}:{dist.get_default_backend_for_device(accelerator.type)}"
        backend = f"cpu:{backend}"
    timeout = timedelta(seconds=timeout_seconds)
    dist.init_process_group(backend, store=own, rank=world.rank, world_size=world.number, timeout=timeout)
    words = dist.new_group(backend="gloo", timeout=LONG)
    beside = dist.TCPStore(world.address, store.port, is_master=False, wait_for_workers=False, timeout=PATIENCE)
    return Meeting(world, Ranks(world.rank, world.number), words, Causes(beside), store)


def _wait_for_all(world: World, store: Any, are_alive: Callable[[], None]) -> None:
    end = time.monotonic() + PATIENCE.total_seconds()
    while True:
        lacking = [rank for rank in range(1, world.number) if not store.check([f"here {rank}"])]
        if not lacking:
            return
        are_alive()
        if time.monotonic() > end:
            some = ", ".join(map(str, lacking[:8])) + (", ..." if len(lacking) > 8 else "")
            raise RunError(
                f"of {world.number} processes, those of rank {some} did not come to the meeting place",
                where="launch",
                hint="start align on every machine, with the same recipe and launch.machine_rank of its own",
            )
        time.sleep(LOOK_SECONDS)
