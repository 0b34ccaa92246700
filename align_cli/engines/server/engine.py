"""Responses from servers: requests to one prompt go out together, answers are yielded as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.engines.base import Request, Sample, SamplingSettings, Settled
from align_cli.engines.server.answers import Ask, Exchange, Form, by_prompt
from align_cli.engines.server.capabilities import Tried, check_context, check_tokenizer, tried
from align_cli.engines.server.fleet import Fleet, Serving
from align_cli.engines.server.places import Came, GoneServerError, Place, Queue
from align_cli.engines.server.review import Review
from align_cli.errors import EngineError
from align_cli.recipe.sections.engine_server import PLACE, SERVER, Update
from align_cli.servers.streamed import streamed

if TYPE_CHECKING:
    from align_cli.models.load import Policy
    from align_cli.recipe import Recipe


class ServerEngine:
    """Sampling by servers.

    Args:
        recipe: the whole recipe.
        note: told what a user should know.
        place: the run's folder for weights and logs; None where there is no run.
    """

    name = SERVER

    def __init__(self, recipe: Recipe, note: Callable[[str], None], place: Callable[[], Path | None]) -> None:
        assert recipe.generate.server is not None
        self._recipe, self._section, self._note = recipe, recipe.generate.server, note
        self._fleet = Fleet(recipe, note, place)
        self._told: dict[str, Any] = {}

    def generate(
        self, policy: Policy, requests: Sequence[Request], settings: SamplingSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Sample]]]:
        """Yield `(index, sample)` as answers come. What is there already is neither asked for nor yielded.

        Raises:
            EngineError: if servers cannot be had, refuse, or answer with what is wrong.
        """
        self._told = {}
        if all(index in done for index in range(len(requests))):
            return
        places = self._places(policy, requests, settings)
        exchange = places[0].exchange
        asks = [ask for ask in asks_for(requests, exchange) if not all(at in done for at in ask.positions)]
        queue = Queue(places, self._section, self._note)

        async def answer(give: Callable[[Came], None]) -> None:
            await queue.answer(asks, give)

        for batch in streamed(answer):
            answers = [answer for came in batch for answer in zip(came.ask.positions, came.samples, strict=True)]
            yield [(at, sample) for at, sample in answers if at not in done]
        self._told = {**queue.counts, "servers": len(places), "left_out": queue.left_out}

    def settle(
        self, policy: Policy, requests: Sequence[Request], samples: Sequence[Sample], settings: SamplingSettings
    ) -> Settled:
        """Compare responses with what the policy says of them; see `review`."""
        settled = self._review(policy, settings).settle(requests, samples)
        return settled._replace(figures={**self._told, **settled.figures})

    @property
    def update(self) -> Update:
        """How servers get a round's weights."""
        return self._fleet.update

    @property
    def standing(self) -> list[str]:
        """The addresses of servers of align's own that go on when a stage is over, and run."""
        return self._fleet.standing

    def check(self) -> None:
        """Look for the command's program, or ask the servers that are there which models they have."""
        self._fleet.check()

    def release(self) -> None:
        """A stage is over."""
        self._fleet.release()

    def _places(self, policy: Policy, requests: Sequence[Request], settings: SamplingSettings) -> list[Place]:
        """The servers that have the policy's weights, each tried, and asked as all of them can be."""
        found = self._all_tried(policy, requests, settings)
        forms = {tried.exchange.form for _, tried in found}
        least = next(form for form in reversed(Form) if form in forms)
        takes_n = all(tried.exchange.takes_n for _, tried in found)
        texts = [tried for _, tried in found if any(sample.from_text for sample in tried.samples)]
        if texts:
            self._take_text(texts[0])
        extra = self._section.extra_body
        return [
            Place(one.endpoint, Exchange(policy, settings, one.model.name, least, takes_n, extra)) for one, _ in found
        ]

    def _all_tried(
        self, policy: Policy, requests: Sequence[Request], settings: SamplingSettings
    ) -> list[tuple[Serving, Tried]]:
        """The servers that answer, with what trying them showed; the others are told of.

        Raises:
            EngineError: if none does, or if one answers with what is wrong.
        """
        found, gone = [], list[EngineError]()
        for one in self._fleet.serve(policy):
            try:
                found.append((one, self._tried(one, policy, requests, settings)))
            except GoneServerError as error:
                gone.append(error)
        if not found:
            raise gone[0]
        for fault in (error.faults[0] for error in gone):
            self._note(f"warning: generate: {fault.what}. It is left out")
        return found

    def _tried(self, one: Serving, policy: Policy, requests: Sequence[Request], settings: SamplingSettings) -> Tried:
        url, several = one.endpoint.base_url, max(map(len, by_prompt(requests)))
        check_context(one.model, requests, settings, url)
        exchange = Exchange(policy, settings, one.model.name, extra=self._section.extra_body)

        async def ask() -> Tried:
            async with one.endpoint.connected():
                await check_tokenizer(one.endpoint, policy, one.model.name)
                return await tried(one.endpoint, exchange, requests[0], several)

        found = asyncio.run(ask())
        self._review(policy, settings).check_weights(found.ask.prompt_ids, found.samples, url)
        return found

    def _review(self, policy: Policy, settings: SamplingSettings) -> Review:
        return Review(policy, settings, self._section, self._recipe.generate.batch_size, self._note)

    def _take_text(self, found: Tried) -> None:
        """Responses are text alone: where the method needs what was sampled, they are refused.

        Raises:
            EngineError: if it does.
        """
        why = f" ({found.refusal})" if found.refusal else ""
        if key := needs_sampled_ids(self._recipe):
            raise EngineError(
                f"a server gives text and no token ids{why}; with {key} the method needs the tokens that were sampled",
                where=PLACE,
                hint=f"take a server that gives token ids, as vLLM or SGLang; or leave {key} out",
            )
        self._note(
            f"generate: a server gives text and no token ids{why}: responses are tokenised anew, and their "
            "log-probabilities are the trainer's"
        )


def needs_sampled_ids(recipe: Recipe) -> str | None:
    """The key by which the method needs the very tokens that were sampled; None where it does not."""
    if recipe.method.importance_weight_cap is not None:
        return "method.importance_weight_cap"
    for name, source in recipe.method.sources.in_use().items():
        if source.policy_responses and getattr(source, "gradient", None):
            return f"method.sources.{name}.gradient"
    return None


def asks_for(requests: Sequence[Request], exchange: Exchange) -> list[Ask]:
    """Requests as they go out: those to one prompt together, where the server takes that.

    The seed of the first is the request's own, without its last digits: so those of any two asks are either the same or
    further apart than there are responses to one, and a server that counts on from it draws no number twice.
    """
    asks = []
    for group in by_prompt(requests):
        seed = exchange.seed(requests[group[0]].seed, len(group))
        whole = Ask(group, requests[group[0]].prompt_ids, seed)
        alone = [Ask([at], whole.prompt_ids, seed + number) for number, at in enumerate(group)]
        asks += [whole] if exchange.takes_n else alone
    return asks
