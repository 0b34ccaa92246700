"""A function in several processes at once, each with its rank, joined by gloo: children of the test's own process."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from align_cli.training.ranks import Ranks

TIMEOUT_SECONDS = 300
Work = Callable[[Ranks], Any]


def in_processes(number: int, work: Work, folder: Path) -> list[Any]:
    """What the work gives on every rank.

    Args:
        number: of processes.
        work: called with its rank in each.
        folder: where they meet.

    Raises:
        AssertionError: with the traceback of the first of them that fails.
    """
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    processes = [
        context.Process(target=_one, args=(rank, number, work, meeting, answers), daemon=True) for rank in range(number)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        for _ in processes:
            rank, answer, fault = answers.get()
            assert fault is None, f"rank {rank}: {fault}"
            found[rank] = pickle.loads(answer)
        for process in processes:
            process.join(TIMEOUT_SECONDS)
    finally:
        for process in processes:
            process.kill()
    return [found[rank] for rank in range(number)]


def _one(rank: int, number: int, work: Work, meeting: Path, answers: Any) -> None:
    store = dist.FileStore(str(meeting), number)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=number, timeout=timedelta(seconds=TIMEOUT_SECONDS)
    )
    try:
        # Tensors as bytes: they would else be looked for in a process that is over.
        answers.put((rank, pickle.dumps(work(Ranks(rank, number))), None))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
    dist.destroy_process_group()
