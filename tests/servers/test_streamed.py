"""Work in another thread, whose results are taken as they come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from align_cli.servers.streamed import streamed


def test_results_come_in_their_order_and_those_that_are_there_together() -> None:
    async def work(give: Callable[[int], None]) -> None:
        for number in range(5):
            give(number)

    batches = list(streamed(work))
    assert [number for batch in batches for number in batch] == [0, 1, 2, 3, 4]
    assert all(batches)


def test_what_came_before_an_error_is_yielded_first() -> None:
    async def work(give: Callable[[int], None]) -> None:
        give(1)
        raise ValueError("broken")

    came = []
    with pytest.raises(ValueError, match="broken"):
        for batch in streamed(work):
            came += batch
    assert came == [1]


def test_who_stops_taking_ends_the_work() -> None:
    ended = threading.Event()

    async def work(give: Callable[[int], None]) -> None:
        try:
            give(1)
            await asyncio.sleep(60)
        finally:
            ended.set()

    results = streamed(work)
    assert next(results) == [1]
    results.close()
    assert ended.is_set()
