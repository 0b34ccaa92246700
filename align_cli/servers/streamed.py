"""Work of several requests at once, whose results are taken one after another by code that waits for each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

ResultType = TypeVar("ResultType")
ItemType = TypeVar("ItemType")


class _End:
    """What comes last.

    Args:
        error: that the work ended with; None where it was done.
    """

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def streamed(work: Callable[[Callable[[ResultType], None]], Awaitable[None]]) -> Iterator[list[ResultType]]:
    """Have work done in another thread, and yield its results as they come, as many as there are at a time.

    Whoever stops taking them ends the work.

    Args:
        work: gives each result to the function that it gets.

    Raises:
        Exception: the one that the work ended with, once all that came before it was taken.
    """
    arrived: SimpleQueue[ResultType | _End] = SimpleQueue()
    begun = threading.Event()
    cancel: list[Callable[[], object]] = []

    async def do() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancel.append(lambda: loop.call_soon_threadsafe(task.cancel))
        begun.set()
        await work(arrived.put)

    def run() -> None:
        error: BaseException | None = None
        try:
            asyncio.run(do())
        except BaseException as raised:
            error = raised
        begun.set()
        arrived.put(_End(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            came = _all_there(arrived)
            if results := [one for one in came if not isinstance(one, _End)]:
                yield results
            if isinstance(came[-1], _End):
                if came[-1].error is not None:
                    raise came[-1].error
                return
    finally:
        begun.wait()
        with suppress(RuntimeError):  # its loop is closed: it is done
            for end in cancel:
                end()
        thread.join()


def _all_there(arrived: SimpleQueue[ItemType]) -> list[ItemType]:
    """What has come, at least one."""
    came = [arrived.get()]
    while True:
        try:
            came.append(arrived.get_nowait())
        except Empty:
            return came
