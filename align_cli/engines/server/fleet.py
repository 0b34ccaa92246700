"""The servers of an engine, and how each gets the weights of a policy.

Where they come from: addresses in the recipe, or a command, by which align starts them below a keeper. How they get the
weights, `generate.server.update`: a new server on their folder; an adapter loaded beside the base (vLLM's
/v1/load_lora_adapter, SGLang's /load_lora_adapter); other weights loaded from a folder (SGLang's
/update_weights_from_disk); the folder's name in every request (`transformers serve`); or they are there.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import shutil
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from align_cli.engines.server.capabilities import ADAPTER_PREFIX, Model, chosen_model, models_of
from align_cli.engines.server.folders import WeightFolders
from align_cli.engines.server.places import ServerEndpoint
from align_cli.errors import EngineError, counted
from align_cli.models.portable import absolute_place
from align_cli.recipe.sections.engine_server import PLACE, Update
from align_cli.servers.faults import NotThereError, PassingError
from align_cli.servers.started import Command, StartedServer, start_servers, stop_servers

if TYPE_CHECKING:
    from align_cli.models.load import Policy
    from align_cli.recipe import Recipe

NO_ROUTE = '"detail":"notfound"'
"""What servers that are made with FastAPI say of a path that they do not have, in small letters and without spaces."""
ResultType = TypeVar("ResultType")


class Serving(NamedTuple):
    """A server that has a policy's weights.

    Args:
        endpoint: where it is.
        model: as requests name it.
        names: of all that it listed when it was asked, adapters too.
    """

    endpoint: ServerEndpoint
    model: Model
    names: Sequence[str] = ()


class Fleet:
    """The servers of a recipe.

    Args:
        recipe: the whole recipe.
        note: told what a user should know.
        place: the run's folder for weights and logs; None where there is no run.
    """

    def __init__(self, recipe: Recipe, note: Callable[[str], None], place: Callable[[], Path | None]) -> None:
        assert recipe.generate.server is not None
        self._recipe, self._section, self._note = recipe, recipe.generate.server, note
        self._folders = WeightFolders(recipe.policy, place)
        self._started: list[StartedServer] = []
        weakref.finalize(self, stop_servers, self._started)
        self._version: str | None = None
        self._serving: list[Serving] = []
        self._adapters: list[str] = []
        run = hashlib.sha256(str(Path(recipe.output_dir).resolve()).encode()).hexdigest()[:8]
        self._prefix = f"{ADAPTER_PREFIX}{run}-"

    @property
    def update(self) -> Update:
        """How servers get a round's weights: the recipe's word, or what fits it."""
        if self._section.update is not None:
            return self._section.update
        return "restart" if self._section.command else "adapter" if self._recipe.policy.lora else "reload"

    @property
    def standing(self) -> list[str]:
        """The addresses of servers of align's own that go on when a stage is over, and run."""
        return [f"{server.root}/v1" for server in self._started if server.exit_status() is None]

    def check(self) -> None:
        """Look for the command's program, or for the servers that are there; at least one of them has to answer.

        Raises:
            EngineError: if it is not there, or if none does.
        """
        if self._section.command is not None:
            program = shlex.split(self._section.command)[0]
            if shutil.which(program) is None:
                what = f"there is no program {program!r}"
                hint = "install it, or name it by its whole path: it may be in an environment of its own"
                raise EngineError(what, where=f"{PLACE}.command", hint=hint)
            return
        asyncio.run(self._answering())

    def serve(self, policy: Policy) -> list[Serving]:
        """Let the servers have a policy's weights; where one of align's own has ended, all of these are started anew.

        Raises:
            EngineError: if they cannot.
        """
        if any(server.exit_status() is not None for server in self._started):
            self.stop()
        if self._version != policy.version:
            self._version = None
            by: dict[Update, Callable[[Policy], list[Serving]]] = {
                "restart": self._by_restart,
                "adapter": self._by_adapter,
                "reload": self._by_reload,
                "name": self._by_name,
                "as_is": self._by_as_is,
            }
            self._serving = by[self.update](policy)
            self._version = policy.version
        return self._serving

    def release(self) -> None:
        """A stage is over: servers on a round's folder are stopped; adapters are unloaded, and their servers go on."""
        if self.update == "restart" or not self._started:
            self._version = None
        if self.update == "restart":
            self.stop()
        elif self._adapters and self._serving:
            asyncio.run(self._each(self._forget_adapters))
            self._version, self._adapters = None, []
        self._folders.clear()

    def stop(self) -> None:
        """Stop what was started."""
        stop_servers(self._started)
        self._started.clear()
        self._serving, self._version = [], None

    def _by_restart(self, policy: Policy) -> list[Serving]:
        self.stop()
        folder = str(self._folders.whole(policy))
        self._start(folder)
        return asyncio.run(self._named(folder))

    def _by_name(self, policy: Policy) -> list[Serving]:
        folder = str(self._folders.whole(policy))
        self._start(folder)
        return [Serving(endpoint, Model(folder, None, None)) for endpoint, _ in asyncio.run(self._answering())]

    def _by_as_is(self, policy: Policy) -> list[Serving]:
        self._start(self._base())
        return asyncio.run(self._named(None))

    def _by_reload(self, policy: Policy) -> list[Serving]:
        folder = str(self._folders.whole(policy))
        self._start(folder)
        self._serving = asyncio.run(self._named(None))
        asyncio.run(self._each(lambda serving: self._reload(serving, folder)))
        return self._serving

    def _by_adapter(self, policy: Policy) -> list[Serving]:
        folder = str(self._folders.adapter(policy))
        self._start(self._base())
        self._serving = asyncio.run(self._named(self._base() if self._started else None))
        name = f"{self._prefix}{policy.version[-16:]}"
        models = asyncio.run(self._each(lambda serving: self._load_adapter(serving, name, folder)))
        self._adapters.append(name)
        return [serving._replace(model=model) for serving, model in zip(self._serving, models, strict=True)]

    def _start(self, model: str) -> None:
        """Start servers on a folder, where the recipe has a command and none runs."""
        command = self._section.command
        if command is None or self._started:
            return
        which = counted(self._section.num_servers, "server")
        self._note(f"generate: starting {which}; what they print is in {self._folders.logs}")
        started = Command(command, f"{PLACE}.command", self._section.start_seconds)
        self._started += start_servers(started, model, self._section.num_servers, self._folders.logs)

    def _base(self) -> str:
        return absolute_place(self._recipe.policy.model_name_or_path or "")

    def _endpoints(self) -> list[ServerEndpoint]:
        own = [ServerEndpoint(f"{server.root}/v1", self._section, server) for server in self._started]
        return own or [ServerEndpoint(url, self._section) for url in self._section.base_urls]

    async def _answering(self) -> list[tuple[ServerEndpoint, list[dict[str, Any]]]]:
        """The servers that answer, each with the models that it lists; the others are told of.

        Raises:
            EngineError: if none does.
        """
        answering, errors = [], []
        for endpoint in self._endpoints():
            try:
                async with endpoint.connected():
                    answering.append((endpoint, await endpoint.listed() or []))
            except EngineError as error:
                errors.append(error)
        if not answering:
            raise errors[0]
        for fault in (error.faults[0] for error in errors):
            self._note(f"warning: generate: {fault.what}. It is left out")
        return answering

    async def _named(self, folder: str | None) -> list[Serving]:
        """Those that answer, each with the model that is the policy's or its base."""
        found = []
        for endpoint, listed in await self._answering():
            model = chosen_model(models_of(listed), self._section.model, folder, endpoint.base_url)
            found.append(Serving(endpoint, model, [one["id"] for one in listed]))
        return found

    async def _each(self, change: Callable[[Serving], Awaitable[ResultType]]) -> list[ResultType]:
        async def connected(serving: Serving) -> ResultType:
            async with serving.endpoint.connected():
                return await change(serving)

        return list(await asyncio.gather(*map(connected, self._serving)))

    async def _load_adapter(self, serving: Serving, name: str, folder: str) -> Model:
        """Load an adapter by whichever of the two ways the server has; how requests name it then."""
        endpoint, base = serving.endpoint, serving.model
        await self._unload_adapters(endpoint, serving.names)
        body = {"lora_name": name, "lora_path": folder}
        if await self._told(endpoint, f"{endpoint.base_url}/load_lora_adapter", body):
            return base._replace(name=name)
        if await self._told(endpoint, f"{endpoint.root}/load_lora_adapter", body):
            return base._replace(name=f"{base.name}:{name}")
        raise EngineError(
            f"the server at {endpoint.base_url} loads no adapters while it runs",
            where=f"{PLACE}.update",
            hint="vLLM does with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, SGLang "
            "with --enable-lora; or set update to restart, with a command",
        )

    async def _unload_adapters(self, endpoint: ServerEndpoint, listed: Sequence[str]) -> None:
        """Unload what this run has loaded into a server, also a process of it that was killed."""
        names = {name.rpartition(":")[2] for name in listed if name.rpartition(":")[2].startswith(self._prefix)}
        for name in sorted({*names, *self._adapters}):
            for root in (endpoint.base_url, endpoint.root):
                with suppress(EngineError):  # of one that it does not hold
                    if await self._told(endpoint, f"{root}/unload_lora_adapter", {"lora_name": name}):
                        break

    async def _forget_adapters(self, serving: Serving) -> None:
        with suppress(EngineError):  # a server that is gone holds none
            await self._unload_adapters(serving.endpoint, await serving.endpoint.models() or [])

    async def _reload(self, serving: Serving, folder: str) -> None:
        endpoint = serving.endpoint
        if not await self._told(endpoint, f"{endpoint.root}/update_weights_from_disk", {"model_path": folder}):
            raise EngineError(
                f"the server at {endpoint.base_url} loads no other weights while it runs",
                where=f"{PLACE}.update",
                hint="SGLang does (/update_weights_from_disk); for others set generate.server.command in the place of "
                "base_urls, or update to as_is where the server has the policy's weights already",
            )

    async def _told(self, endpoint: ServerEndpoint, address: str, body: dict[str, str]) -> bool:
        """Have a server do something; False where it has no such path.

        Raises:
            EngineError: if it does not do it.
        """
        hint = "it has to see the folder, by the same path, and to hold an adapter of this rank (--max-lora-rank)"
        try:
            said = await endpoint.sent_text(address, body)
        except NotThereError as missing:
            if NO_ROUTE in missing.what.lower().replace(" ", ""):
                return False
            raise EngineError(missing.what, where=PLACE, hint=hint) from None
        except EngineError as error:
            raise EngineError(error.faults[0].what, where=PLACE, hint=hint) from None
        except PassingError as trouble:
            what = f"the server at {endpoint.base_url} was asked for {address}, and {trouble}"
            raise EngineError(endpoint.shown(what, 600), where=PLACE, hint=hint) from None
        if '"success":false' in said.lower().replace(" ", ""):
            what = f"the server at {endpoint.base_url} refused: {endpoint.shown(said)}"
            raise EngineError(what, where=PLACE, hint=hint)
        return True
