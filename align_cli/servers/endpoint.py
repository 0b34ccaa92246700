"""One server: a request and its retries, and faults in words that say what to do.

A request is sent again after 408, 409, 425, 429, 5xx, no answer in time, a connection that broke, and an answer that is
none; never after another 4xx, which would be the same again. Waits double from half a second to a minute, each drawn
from its upper half so that requests do not come back together, and are at least what the server asks for.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from align_cli.errors import AlignError, LabelerError
from align_cli.servers.faults import GoneError, NotThereError, PassingError, fault_of, in_short
from align_cli.servers.pace import Pace

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
LONGEST_ASKED_SECONDS = 600.0
"""Where a server asks for a longer wait, the user is asked in its place."""
NO_KEY = "EMPTY"
"""What a server that wants no key is sent: without any, the client would take OPENAI_API_KEY from the environment."""


class UnreadableError(ValueError):
    """An answer that is none: not JSON, or without what was asked for. It is asked for again."""


class Came(NamedTuple, Generic[T]):
    """An answer that came.

    Args:
        answer: what was read.
        num_retries: how often it was asked for again.
    """

    answer: T
    num_retries: int


class Manners(Protocol):
    """How a server is asked: the part of a section that every one has."""

    @property
    def model(self) -> str | None:
        """The name under which the server has the model; None where any will do."""
        ...

    @property
    def api_key_env(self) -> str | None:
        """The environment variable that holds the key."""
        ...

    @property
    def max_retries(self) -> int:
        """Times that one request is sent again."""
        ...

    @property
    def timeout_seconds(self) -> float:
        """How long a request may take."""
        ...


class Watch(Protocol):
    """Told of every request."""

    def sends(self) -> None:
        """A request is about to go out.

        Raises:
            AlignError: if it may not.
        """
        ...

    def failed(self) -> None:
        """It came to nothing."""
        ...


class Unwatched:
    """Nobody counts the requests."""

    def sends(self) -> None:
        """Nothing happens."""

    def failed(self) -> None:
        """Nothing happens."""


class Endpoint:
    """One server, as a labeler or an engine asks it.

    Args:
        place: the section's key in the recipe, for errors.
        base_url: its address, to which the paths of requests are added.
        url_key: the recipe's key of that address.
        section: model, key, retries and time-outs.
        pace: when requests may go out.
    """

    error: type[AlignError] = LabelerError
    """What is raised for the user."""

    def __init__(self, place: str, base_url: str, url_key: str, section: Manners, pace: Pace) -> None:
        self.place, self.base_url, self.url_key = place, base_url.rstrip("/"), url_key
        self._section, self._pace = section, pace
        self._rng = random.Random()  # of its own: a run's numbers do not depend on a server's faults
        self._client: AsyncOpenAI | None = None

    @property
    def key(self) -> str:
        """The key that requests carry.

        Raises:
            AlignError: if its variable is not set.
        """
        name = self._section.api_key_env
        if name is None:
            return NO_KEY
        key = os.environ.get(name, "").strip()
        if not key:
            raise self.error(
                f"the environment variable {name} is not set",
                where=f"{self.place}.api_key_env",
                hint=f"export {name}=..., or name the variable that holds the key",
            )
        return key

    def shown(self, text: str, longest: int = 300) -> str:
        """What the server or its model wrote, in one line without the key of requests."""
        return in_short(text, self.key if self._section.api_key_env else "", longest)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Connections for the time of the block."""
        from openai import AsyncOpenAI

        timeout = self._section.timeout_seconds
        async with AsyncOpenAI(base_url=self.base_url, api_key=self.key, max_retries=0, timeout=timeout) as client:
            self._client = client
            yield

    async def ask(
        self,
        path: str,
        body: dict[str, Any],
        read: Callable[[Any], T],
        watch: Watch,
        stopped: asyncio.Event,
        num_tokens: float = 0.0,
    ) -> Came[T]:
        """Send a request until there is an answer.

        Args:
            path: behind the address, as `/chat/completions`.
            body: of the request, as JSON.
            read: makes an answer of what came, or raises `UnreadableError`.
            watch: told of every request.
            stopped: others have met a fault: what waits gives up.
            num_tokens: that it is expected to take.

        Raises:
            AlignError: if the server refuses, or if there is none after the last retry.
            GoneError: if it gave up because others have.
        """
        for attempt in itertools.count():
            await self._wait(self._pace.turn(num_tokens), stopped)
            watch.sends()
            try:
                return Came(read(await self.sent(path, body)), attempt)
            except PassingError as passing:
                trouble = passing
            except UnreadableError as unreadable:
                trouble = PassingError(f"its answer cannot be read: {unreadable}")
            except NotThereError as fault:
                watch.failed()
                raise await self._not_there(fault, path) from None
            except BaseException:
                watch.failed()
                raise
            watch.failed()
            if attempt >= self._section.max_retries or trouble.wait_seconds > LONGEST_ASKED_SECONDS:
                raise self.given_up(trouble, attempt + 1)
            if trouble.wait_seconds:
                self._pace.hold(trouble.wait_seconds)
            await self._wait(max(trouble.wait_seconds, self.backoff(attempt)), stopped)
        raise AssertionError("unreachable")

    def took(self, num_tokens: float) -> None:
        """A request took so many tokens more than was expected."""
        self._pace.correct(num_tokens)

    async def models(self) -> list[str] | None:
        """The names of the models that the server says it has; see `listed`."""
        found = await self.listed()
        return None if found is None else [one["id"] for one in found]

    async def listed(self) -> list[dict[str, Any]] | None:
        """The models that the server says it has, with what it says of each; None where it does not say. Costs nothing.

        Raises:
            AlignError: if it cannot be reached, wants another key, or has them at an address below this one.
        """
        try:
            found = await self._listed_at(self.base_url)
            below = f"{self.base_url}/v1"
            if found is None and await self._listed_at(below) is not None:
                what = f"there is nothing at {self.base_url}, and a server at {below}"
                raise self.error(what, where=f"{self.place}.{self.url_key}", hint=f"set it to {below}")
        except PassingError as trouble:
            if trouble.is_answered:  # some have trouble with their list alone
                return None
            raise self.given_up(trouble, 1) from None
        return found

    async def _listed_at(self, base_url: str) -> list[dict[str, Any]] | None:
        try:
            found = await self.sent(f"{base_url}/models", None)
            return [{**one, "id": str(one["id"])} for one in found["data"]]
        except (NotThereError, UnreadableError, KeyError, TypeError):
            return None

    async def sent(self, path: str, body: dict[str, Any] | None) -> Any:
        """What the server says to one request, as JSON.

        Args:
            path: behind the address, or an address of its own.
            body: as JSON; None asks by GET.

        Raises:
            PassingError: if there was no answer, or one that says that another may come.
            NotThereError: if the path, or the model, is not there.
            UnreadableError: if it is no JSON.
            AlignError: if the server refuses.
        """
        text = await self.sent_text(path, body)
        try:
            return json.loads(text)
        except ValueError:
            shown = self.shown(text)
            raise UnreadableError(f"it is no JSON: {shown}" if shown else "it is empty") from None

    async def sent_text(self, path: str, body: dict[str, Any] | None) -> str:
        """What the server says to one request, whatever that is."""
        import openai

        assert self._client is not None  # within `connected`
        try:
            async with asyncio.timeout(self._section.timeout_seconds):
                if body is None:
                    return await self._client.get(path, cast_to=str)
                return await self._client.post(path, body=body, cast_to=str)
        except (TimeoutError, openai.APITimeoutError):
            raise PassingError(f"there was no answer within {self._section.timeout_seconds:g} seconds") from None
        except openai.OpenAIError as error:
            raise fault_of(error, self) from None

    def refused(self, status: int, said: str) -> str:
        """What to do about a request that the server refuses for what it says."""
        if "max_completion_tokens" in said:
            return f"set {self.place}.max_tokens to null and extra_body to {{max_completion_tokens: 1024}}"
        if "temperature" in said:
            return f"set {self.place}.temperature to what it takes, or to null"
        if "context" in said or "maximum" in said or status == 413:
            return (
                "prompt and completions are longer than the model can read: take another model, or shorter completions"
            )
        return "the request would be refused again: look at model, extra_body and template"

    async def _not_there(self, fault: NotThereError, path: str) -> AlignError:
        """What is not there: the model, where the server names others, or the path of the request."""
        names = await self.models()
        if names is None or self._section.model in names:
            is_v1 = self.base_url.endswith("/v1") or self.url_key != "base_url"
            hint = "is it the server's address" + ("" if is_v1 else ", which ends in /v1 for most")
            hint += f", and is it asked by {path} there?"
            return self.error(fault.what, where=f"{self.place}.{self.url_key}", hint=hint)
        hint = f"the server has the models {self.shown(', '.join(names) or 'none')}"
        return self.error(fault.what, where=f"{self.place}.model", hint=hint)

    async def _wait(self, seconds: float, stopped: asyncio.Event) -> None:
        if seconds > 0:
            try:
                await asyncio.wait_for(stopped.wait(), seconds)
            except TimeoutError:
                return
        if stopped.is_set():
            raise GoneError

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after so many tries that failed before this one, drawn anew."""
        longest = min(FIRST_WAIT_SECONDS * 2 ** min(attempt, 30), LONGEST_WAIT_SECONDS)
        return longest * self._rng.uniform(0.5, 1.0)

    def given_up(self, trouble: PassingError, num_asked: int) -> AlignError:
        """What is raised when a request came to nothing for the last time."""
        asked = "once" if num_asked == 1 else f"{num_asked} times"
        what = f"the server at {self.base_url} was asked {asked}, and {trouble}"
        if trouble.wait_seconds > LONGEST_ASKED_SECONDS:
            what += f"; it asks to wait for {trouble.wait_seconds:.0f} seconds"
        return self.error(self.shown(what, 600), where=self.place, hint=trouble.hint)
