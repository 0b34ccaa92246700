"""What a recipe names: its own faults, its device, its models, and the servers that it asks."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from align_cli.doctor.finding import Finding, failures
from align_cli.errors import AlignError
from align_cli.models.hub import is_cached
from align_cli.recipe import Recipe, load_recipe
from align_cli.recipe.data_names import BUILT_IN_WORLDS
from align_cli.recipe.sections.engine_server import PLACE, SERVER
from align_cli.recipe.sections.labelers.judge import JudgeLabelerSection
from align_cli.recipe.sections.labelers.reward_model import OF_RUN, RewardModelLabelerSection
from align_cli.recipe.sections.labelers.reward_server import RewardServerLabelerSection

AREA = "recipe"
PATIENCE_SECONDS = 10.0
"""For which a server may think; a run waits longer, by the recipe's timeout_seconds."""
WITH_MODELS = "/v1"
"""Below a reward server's address, where it names its models."""


def read_recipe(path: Path, overrides: Sequence[str]) -> tuple[Recipe | None, list[Finding]]:
    """The recipe, and whether it is sound; None with its faults where it is not."""
    try:
        recipe = load_recipe(path, overrides)
    except AlignError as error:
        return None, failures(AREA, "recipe", error)
    return recipe, [Finding(AREA, "recipe", "ok", f"{path} is sound; `align check` reads its data, too")]


def examine_needs(recipe: Recipe) -> Iterator[Finding]:
    """Its device, its models and its servers; each server is asked which models it has, and nothing else."""
    yield from _device(recipe)
    for key, name in _models(recipe).items():
        yield _model(key, name)
    yield from _servers(recipe)


def _device(recipe: Recipe) -> Iterator[Finding]:
    from align_cli.models.devices import KEY, find_device

    try:
        yield Finding(AREA, KEY, "ok", f"{recipe.policy.device}: {find_device(recipe.policy.device)}")
    except AlignError as error:
        yield from failures(AREA, KEY, error)


def _models(recipe: Recipe) -> dict[str, str]:
    """The models that a run loads, by key; none that it makes itself."""
    named = {"policy.model_name_or_path": recipe.policy.model_name_or_path}
    if recipe.reward is not None:
        named["reward.model_name_or_path"] = recipe.reward.model_name_or_path
    for name, labeler in recipe.labelers.items():
        if isinstance(labeler, RewardModelLabelerSection):
            named[f"labelers.{name}.model_name_or_path"] = labeler.model_name_or_path
    return {key: model for key, model in named.items() if model and model not in (*BUILT_IN_WORLDS, OF_RUN)}


def _model(key: str, name: str) -> Finding:
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    if Path(name).expanduser().is_dir():
        return Finding(AREA, key, "ok", f"{name} is here")
    try:
        is_here = is_cached(name)
    except HFValidationError:
        return Finding(AREA, key, "fail", f"{name} is no folder here, and no Hub id", "check its name")
    if is_here:
        return Finding(AREA, key, "ok", f"{name} is in the Hub's cache")
    if constants.HF_HUB_OFFLINE:
        return Finding(AREA, key, "fail", f"{name} is not in the Hub's cache, and HF_HUB_OFFLINE is set", "unset it")
    return Finding(AREA, key, "warn", f"{name} is not here yet", "the first command that needs it downloads it")


def _servers(recipe: Recipe) -> Iterator[Finding]:
    from align_cli.engines.server.places import ServerEndpoint
    from align_cli.servers import Endpoint
    from align_cli.servers.pace import Pace

    for name, labeler in recipe.labelers.items():
        place = f"labelers.{name}"
        if isinstance(labeler, JudgeLabelerSection | RewardServerLabelerSection):
            is_judge = isinstance(labeler, JudgeLabelerSection)
            url = labeler.base_url if isinstance(labeler, JudgeLabelerSection) else _with_models(labeler.url)
            endpoint = Endpoint(place, url, "base_url" if is_judge else "url", _patient(labeler), Pace())
            yield from _server(place, endpoint, labeler.model)
    server = recipe.generate.server
    if recipe.generate.engine != SERVER or server is None:
        return
    for url in server.base_urls:
        yield from _server(PLACE, ServerEndpoint(url, _patient(server)), server.model)
    if server.command:
        yield _command(server.command)


def _with_models(url: str) -> str:
    return url if url.rstrip("/").endswith(WITH_MODELS) else url.rstrip("/") + WITH_MODELS


def _patient(section: Any) -> Any:
    return section.model_copy(update={"timeout_seconds": min(section.timeout_seconds, PATIENCE_SECONDS)})


def _server(place: str, endpoint: Any, model: str | None) -> Iterator[Finding]:
    """Whether a server answers, in what time, and whether it has the model."""

    async def models() -> list[str] | None:
        async with endpoint.connected():
            known: list[str] | None = await endpoint.models()
            return known

    begun = time.monotonic()
    try:
        known = asyncio.run(models())
    except AlignError as error:
        yield from failures(AREA, place, error)
        return
    what = f"{endpoint.base_url} answers within {time.monotonic() - begun:.2f} s"
    if known is None:
        yield Finding(AREA, place, "ok", f"{what}, and does not say which models it has")
    elif model is not None and model not in known:
        names = endpoint.shown(", ".join(known) or "none")
        hint = f"set {place}.model to one that it has"
        yield Finding(AREA, place, "fail", f"{what}; {model} is not among its models: {names}", hint)
    else:
        yield Finding(AREA, place, "ok", f"{what}, with {model or endpoint.shown(', '.join(known))}")


def _command(command: str) -> Finding:
    program = shlex.split(command)[0]
    if shutil.which(program):
        return Finding(AREA, PLACE, "ok", f"{program} is installed; it is started when it is needed")
    return Finding(AREA, PLACE, "fail", f"there is no program {program} here", "install it, or name its whole path")
