"""What a server is and can do, asked before it is asked for a round.

Which model it has, how it reads text, which form of requests it takes, and whether it gives several responses to one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.engines.server.answers import PATH, Ask, Exchange, Form, WrongAnswerError
from align_cli.engines.server.places import ServerEndpoint
from align_cli.errors import EngineError, counted
from align_cli.recipe.sections.engine_server import PLACE
from align_cli.servers import UnreadableError, Unwatched
from align_cli.servers.faults import NotThereError, PassingError

if TYPE_CHECKING:
    from align_cli.models.load import Policy

ADAPTER_PREFIX = "align-"
"""What align's own adapters are called, which are no models that a server was given."""
OF_A_FORM = (400, 422)
"""By which status a server refuses a form of requests that it does not take."""
TRIED_TOKENS = 16
"""The longest response that a server is tried with."""
TRIED_TEXT = "The 3 quick brown foxes, naïve as ever: “jump(over)\\n\\tthe lazy dogs'` — 狐 🦊 = 42.50!"
"""What a server's tokenizer is tried with: words, digits, signs, white space, letters of several bytes."""


class Tried(NamedTuple):
    """What trying a server showed.

    Args:
        exchange: how it is asked from now on.
        refusal: what it said of the form that says most; empty where it takes that.
        ask: what it was tried with.
        samples: what it answered.
    """

    exchange: Exchange
    refusal: str
    ask: Ask
    samples: list[Sample]


class Model(NamedTuple):
    """A model that a server names.

    Args:
        name: how requests name it.
        root: what it was loaded from; None where the server does not say.
        longest: the most tokens of prompt and response; likewise.
    """

    name: str
    root: str | None
    longest: int | None


def models_of(listed: Sequence[dict[str, Any]]) -> list[Model]:
    """The models among what a server lists, adapters aside."""
    models = [_model(one) for one in listed if not one.get("parent")]
    return [model for model in models if not model.name.startswith(ADAPTER_PREFIX)]


def _model(one: dict[str, Any]) -> Model:
    root, longest = one.get("root"), one.get("max_model_len")
    return Model(one["id"], root if isinstance(root, str) else None, longest if isinstance(longest, int) else None)


def chosen_model(models: Sequence[Model], wanted: str | None, folder: str | None, base_url: str) -> Model:
    """The one of a server's models that is the policy's.

    Args:
        models: that it names.
        wanted: the name that the recipe gives; None for none.
        folder: what it was started with, or what requests shall name; None where it was there already.
        base_url: its address.

    Raises:
        EngineError: if it has another one, or several without a word which.
    """
    names = [model.name for model in models]
    if wanted is not None:
        if models and wanted not in names:
            what = f"the server at {base_url} has no model {wanted!r}; it has {', '.join(names)}"
            raise EngineError(what, where=f"{PLACE}.model", hint="name one of these, or leave the key out")
        return next((model for model in models if model.name == wanted), Model(wanted, None, None))
    own = [model for model in models if folder in (model.name, model.root)]
    if own or (len(models) == 1 and folder is None):
        return (own or list(models))[0]
    if folder is not None:  # some name models of their cache, and take others
        return Model(folder, None, None) if not models or len(models) > 1 else models[0]
    what = f"the server at {base_url} names {counted(len(models), 'model')}: {', '.join(names) or 'none'}"
    raise EngineError(what, where=f"{PLACE}.model", hint="set it to the name of the policy's model there")


def check_context(model: Model, requests: Sequence[Request], settings: SamplingSettings, base_url: str) -> None:
    """Whether a server reads prompts and responses as long as these.

    Raises:
        EngineError: if not.
    """
    longest = max(len(request.prompt_ids) for request in requests)
    if model.longest is not None and longest + settings.max_new_tokens > model.longest:
        what = (
            f"the server at {base_url} reads {model.longest} tokens; the longest prompt has {longest}, and "
            f"generate.max_new_tokens is {settings.max_new_tokens}"
        )
        raise EngineError(
            what, where=PLACE, hint="start it with a longer context (--max-model-len), or set data.max_prompt_tokens"
        )


async def check_tokenizer(endpoint: ServerEndpoint, policy: Policy, model: str) -> None:
    """Whether a server, where it can be asked, makes the policy's token ids of a text.

    Raises:
        EngineError: if not.
    """
    body = {"model": model, "prompt": TRIED_TEXT, "add_special_tokens": False}
    try:
        found = await endpoint.sent(f"{endpoint.root}/tokenize", body)
        theirs = found["tokens"]
    except (PassingError, NotThereError, UnreadableError, EngineError, KeyError, TypeError):  # few have it
        return
    ours = policy.tokenizer(TRIED_TEXT, add_special_tokens=False)["input_ids"]
    if theirs != ours:
        what = (
            f"the server at {endpoint.base_url} has another tokenizer than the policy: a text has {len(ours)} tokens "
        )
        what += f"here and {len(theirs) if isinstance(theirs, list) else 0} there, or others"
        raise EngineError(what, where=PLACE, hint="start it with the policy's model, and no tokenizer of its own")


async def tried(endpoint: ServerEndpoint, exchange: Exchange, request: Request, number: int) -> Tried:
    """Ask a server for a short response or two, in the form that says most among those that it takes.

    Args:
        endpoint: the server.
        exchange: as it may be asked.
        request: whose prompt it is tried with.
        number: the responses that are asked for together.

    Raises:
        EngineError: if it takes none, or answers with what is wrong.
    """
    settings, first_refusal = exchange.settings, None
    short = settings._replace(max_new_tokens=min(settings.max_new_tokens, TRIED_TOKENS))
    for form in Form:
        asking = replace(exchange, settings=short, form=form, takes_n=form is not Form.TRANSFORMERS and number > 1)
        wanted = min(number, 2) if asking.takes_n else 1
        ask = Ask(list(range(wanted)), request.prompt_ids, asking.seed(request.seed, wanted))
        try:
            answer = await _answered(endpoint, asking, ask)
            if asking.num_given(answer) == 1 and wanted > 1:
                asking, ask = replace(asking, takes_n=False), ask._replace(positions=[0])
            samples = asking.samples(answer, ask)
        except WrongAnswerError as wrong:
            raise wrong.of(endpoint.base_url) from None
        except EngineError as refusal:
            if refusal.refused_with not in OF_A_FORM:
                raise
            first_refusal = first_refusal or refusal
            continue
        said = first_refusal.faults[0].what if first_refusal else ""
        return Tried(replace(asking, settings=settings), said, ask, samples)
    assert first_refusal is not None
    raise first_refusal


async def _answered(endpoint: ServerEndpoint, exchange: Exchange, ask: Ask) -> Any:
    """An answer, asked for again while what goes wrong may pass."""

    def read(answer: Any) -> Any:
        exchange.num_given(answer)
        return answer

    return (await endpoint.ask(PATH, exchange.body(ask), read, Unwatched(), asyncio.Event())).answer
