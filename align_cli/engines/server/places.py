"""Servers that take requests from one queue, each as many as it can: a slow one holds nobody, a dead one is left out.

A request that came to nothing goes back to the queue's front, for whoever is free first. A server that fails waits,
twice as long each time, and is left out when it has failed more often in a row than `max_retries`, or has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from align_cli.engines.base import Sample
from align_cli.engines.server.answers import PATH, Ask, Exchange, WrongAnswerError
from align_cli.errors import AlignError, EngineError
from align_cli.recipe.sections.engine_server import PLACE, ServerEngineSection
from align_cli.servers import Endpoint, UnreadableError
from align_cli.servers.faults import KEPT, NotThereError, PassingError
from align_cli.servers.pace import Pace
from align_cli.servers.started import StartedServer


class GoneServerError(EngineError):
    """A server that is not there, or that fails again and again: others may go on without it."""


class ServerEndpoint(Endpoint):
    """A server as the engine asks it.

    Args:
        base_url: its address.
        section: how it is asked.
        started: its process, where align has started it.
    """

    error = EngineError

    def __init__(self, base_url: str, section: ServerEngineSection, started: StartedServer | None = None) -> None:
        super().__init__(PLACE, base_url, "command" if started else "base_urls", section, Pace())
        self.started = started

    @property
    def root(self) -> str:
        """What stands before /v1."""
        return self.base_url.removesuffix("/v1")

    @property
    def exit_status(self) -> int | None:
        """How a server that align has started has ended; None for others, and while it runs."""
        return self.started.exit_status() if self.started else None

    def given_up(self, trouble: PassingError, num_asked: int) -> AlignError:
        """A request came to nothing for the last time."""
        fault = super().given_up(trouble, num_asked).faults[0]
        return GoneServerError(fault.what, where=fault.where, hint=fault.hint)

    def refused(self, status: int, said: str) -> str:
        """What to do about a request that the server refuses for what it says."""
        if "context" in said or "maximum" in said or "max_model_len" in said or status == 413:
            return "start it with a longer context, lower generate.max_new_tokens, or set data.max_prompt_tokens"
        return (
            "the request would be refused again: docs/servers.md says what is sent, and its log what is wrong with it"
        )


@dataclass
class Place:
    """A server that has the policy's weights.

    Args:
        endpoint: where it is.
        exchange: how it is asked.
    """

    endpoint: ServerEndpoint
    exchange: Exchange
    failures: int = 0
    rests_until: float = 0.0
    is_out: bool = False


class Came(NamedTuple):
    """The responses to an ask."""

    ask: Ask
    samples: list[Sample]


@dataclass
class Queue:
    """Asks, and the servers that answer them.

    Args:
        places: the servers.
        section: how they are asked.
        note: told of a server that is left out.
    """

    places: Sequence[Place]
    section: ServerEngineSection
    note: Callable[[str], None]
    counts: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)

    async def answer(self, asks: Sequence[Ask], give: Callable[[Came], None]) -> None:
        """Have every ask answered.

        Args:
            asks: in the order in which they go out.
            give: told of what came.

        Raises:
            EngineError: if a server refuses or answers with what is wrong, or if none is left.
        """
        self._waiting, self._num_left, self._tried = deque(asks), len(asks), Counter[int]()
        self._changed = asyncio.Condition()
        self._give = give
        async with AsyncExitStack() as stack:
            for place in self.places:
                await stack.enter_async_context(place.endpoint.connected())
            try:
                async with asyncio.TaskGroup() as group:
                    for place in self.places:
                        for _ in range(min(self.section.concurrency, len(asks))):
                            group.create_task(self._work(place))
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from None

    async def _work(self, place: Place) -> None:
        """What one of a server's requests at a time does."""
        while (ask := await self._next(place)) is not None:
            began = time.monotonic()
            try:
                self.counts["requests"] += 1
                answer = await place.endpoint.sent(PATH, place.exchange.body(ask))
                samples = place.exchange.samples(answer, ask)
            except PassingError as passing:
                await self._failed(place, ask, began, passing)
            except UnreadableError as unreadable:
                await self._failed(place, ask, began, PassingError(f"its answer cannot be read: {unreadable}"))
            except NotThereError as missing:
                raise EngineError(
                    missing.what, where=PLACE, hint="is it the server's address, and its model?"
                ) from None
            except WrongAnswerError as wrong:
                raise wrong.of(place.endpoint.base_url) from None
            else:
                place.failures = 0
                self._give(Came(ask, samples))
                await self._tell(lambda: setattr(self, "_num_left", self._num_left - 1))

    async def _next(self, place: Place) -> Ask | None:
        """The next ask for a server; None where there will be none."""
        while True:
            rest = place.rests_until - time.monotonic()
            if place.is_out or self._num_left == 0:
                return None
            async with self._changed:
                if rest <= 0 and self._waiting:
                    return self._waiting.popleft()
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest if rest > 0 else None):
                        await self._changed.wait()

    async def _failed(self, place: Place, ask: Ask, began: float, trouble: PassingError) -> None:
        """An ask came to nothing: it goes back; its server rests, or is left out.

        Raises:
            EngineError: if this ask has failed too often, or if no server is left.
        """
        key = ask.positions[0]
        self.counts["retries"] += 1
        if began >= place.rests_until:  # else it was under way when the server failed, which is known
            self._tried[key] += 1
            place.failures += 1
            wait = max(trouble.wait_seconds, place.endpoint.backoff(place.failures - 1))
            place.rests_until = time.monotonic() + wait
        has_ended = place.endpoint.exit_status is not None
        is_too_often = place.failures > self.section.max_retries
        if not place.is_out and (has_ended or is_too_often):
            self._leave_out(place, trouble)
        if self._tried[key] > self.section.max_retries * len(self.places) + len(self.places) - 1:
            raise self._given_up(place, f"was asked {self._tried[key]} times, and {trouble}", trouble)
        await self._tell(lambda: self._waiting.appendleft(ask))

    def _leave_out(self, place: Place, trouble: PassingError) -> None:
        place.is_out = True
        status = place.endpoint.exit_status
        what = (
            f"has ended with exit status {status}"
            if status is not None
            else f"failed {place.failures} times in a row: {trouble}"
        )
        if all(other.is_out for other in self.places):
            raise self._given_up(place, what, trouble)
        self.left_out.append(place.endpoint.base_url)
        said = place.endpoint.shown(f"the server at {place.endpoint.base_url} {what}", 400)
        self.note(f"warning: generate: {said}. It is left out; its requests go to the others")

    def _given_up(self, place: Place, what: str, trouble: PassingError) -> AlignError:
        said = place.endpoint.shown(f"the server at {place.endpoint.base_url} {what}", 600)
        if len(self.places) > 1 and all(other.is_out for other in self.places):
            said = f"no server is left of {len(self.places)}; {said}"
        started = place.endpoint.started
        if started is not None and started.exit_status() is not None:
            (fault,) = started.fault(said).faults
            return EngineError(said, where=PLACE, hint=f"{fault.hint}. {KEPT}", snippet=fault.snippet)
        return EngineError(said, where=PLACE, hint=trouble.hint)

    async def _tell(self, change: Callable[[], Any]) -> None:
        """Change something that others wait for."""
        async with self._changed:
            change()
            self._changed.notify_all()
