"""Several requests at once: a bounded number, none held up by a slow one, and none begun after the first fault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

ItemType = TypeVar("ItemType")


async def ask_all(
    items: Iterable[ItemType], concurrency: int, ask: Callable[[ItemType, asyncio.Event], Awaitable[None]]
) -> None:
    """Ask for each item; the next one begins when any is done.

    After the first fault nothing new begins. What is under way is let finish, since it is paid for.

    Args:
        items: in the order in which they begin.
        concurrency: how many are under way at once.
        ask: for one item; told by the event that the others have stopped, for where it waits.

    Raises:
        Exception: the first that an item raised.
    """
    stopped = asyncio.Event()
    faults: list[Exception] = []
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            try:
                await ask(item, stopped)
            except Exception as fault:
                faults.append(fault)
                stopped.set()
            if stopped.is_set():
                return

    await asyncio.gather(*(work() for _ in range(concurrency)))
    if faults:
        raise faults[0]
