"""How many threads compute on the CPU: chosen when a run begins, kept in it, used again by whoever goes on with it.

Several threads add numbers up in another order than one, so a run's bytes depend on how many there are. Where another
process is at work on a core that they count on, two threads take longer than one, and a small model has no use for a
second one in any case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from align_cli.models.refused import WEIGHTS_PATTERN
from align_cli.recipe import Recipe
from align_cli.recipe.data_names import PLAYGROUND
from align_cli.run.folder import RunFolder

SMALL_WEIGHTS_BYTES = 40_000_000
"""A model whose weights take less, some ten million of them, is computed by one thread; see benchmarks/threads.py."""

LOOK_SECONDS = 0.2
"""For how long other processes are watched."""


def settle_num_threads(
    folder: RunFolder, recipe: Recipe, round_number: int, note: Callable[[str], None] = lambda text: None
) -> None:
    """Say in the run's folder how many threads compute from a round on: the recipe's, else as before, else a choice.

    Args:
        folder: locked, and begun.
        recipe: may name a number.
        round_number: the first that is still to do.
        note: told what a user should know.
    """
    known, origin = folder.begun.num_threads(round_number), folder.lineage.origin
    if known is None:
        inherited = RunFolder(origin.run).begun.num_threads(origin.round) if origin is not None else None
        known = inherited or choose_num_threads(recipe)
        folder.begun.remember_num_threads(0, known)
    wanted = recipe.num_threads or known
    if wanted != known:
        folder.begun.remember_num_threads(round_number, wanted)
        note(f"num_threads is {wanted} and was {known}: results may differ in their last digits from here on")
    if (cores := usable_cores()) < wanted:
        note(f"the run computes with {wanted} threads, and this machine has {cores} cores; num_threads= changes that")


def choose_num_threads(recipe: Recipe) -> int:
    """The recipe's number; else one for a small model, and for others as many as the machine has cores free.

    Several processes of a recipe share these cores.
    """
    if recipe.num_threads is not None:
        return recipe.num_threads
    config = recipe.launch.config
    here = (config.num_processes or 1) // config.num_machines
    return 1 if is_small(recipe) else max(1, free_cores() // here)


def free_cores() -> int:
    """Cores that no other process is at work on just now; at least 1, at most what torch would take by itself."""
    import psutil
    import torch

    busy = psutil.cpu_percent(interval=LOOK_SECONDS) / 100 * (os.cpu_count() or 1)
    idle = round((os.cpu_count() or 1) - busy)
    return max(1, min(idle, usable_cores(), torch.get_num_threads()))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def computing_with(num_threads: int) -> Iterator[None]:
    """While it lasts, torch computes with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_small(recipe: Recipe) -> bool:
    """Whether the policy's weights are few, as far as can be told before it is loaded or made."""
    scratch, folder = recipe.policy.from_scratch, Path(recipe.policy.model_name_or_path or "")
    if scratch is not None:
        layers = 12 * scratch.num_hidden_layers * scratch.hidden_size**2
        return 4 * (layers + scratch.vocab_size * scratch.hidden_size) < SMALL_WEIGHTS_BYTES
    sizes = [file.stat().st_size for file in folder.glob(WEIGHTS_PATTERN)] if folder.is_dir() else []
    return recipe.policy.model_name_or_path == PLAYGROUND or 0 < sum(sizes) < SMALL_WEIGHTS_BYTES
