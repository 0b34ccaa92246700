"""Who is talked to: the policy of a round of a run, another round's beside it, or any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.artifacts.records import TemplateArguments
from align_cli.engines.base import SamplingSettings, sampling_settings
from align_cli.engines.conversation import Conversation
from align_cli.errors import RunError
from align_cli.models.load import Policy, load_policy
from align_cli.models.of_recipe import load_recipe_policy
from align_cli.models.refused import ADAPTER_CONFIG, check_folder, faults_of_a_model, holds_model
from align_cli.run.chosen import choose_round, open_run, reading_checkpoint
from align_cli.run.folder import RunFolder

MAX_NEW_TOKENS = 512
"""Of a model that says nothing itself."""


class Wishes(NamedTuple):
    """What is wanted in the place of what recipe or model say; None leaves that as it is."""

    temperature: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    system: str | None = None


class Partners(NamedTuple):
    """Who is talked to.

    Args:
        conversations: by title, such as `round 2`.
        seed: of the sampling.
        max_new_tokens: at which an answer is cut.
    """

    conversations: Mapping[str, Conversation]
    seed: int
    max_new_tokens: int


def partners(name: str, which: str | None, beside: str | None, wishes: Wishes, note: Callable[[str], None]) -> Partners:
    """Load who is talked to.

    Args:
        name: a run's folder, a model's, or a Hub id.
        which: the round; see `choose_round`.
        beside: another round, or None.
        wishes: what is wanted otherwise.
        note: told what a user should know.

    Raises:
        AlignError: if there is no such run, round or model.
    """
    folder = RunFolder(name)
    if folder.exists or folder.set_aside.is_there or (Path(name).exists() and not holds_model(Path(name))):
        return _of_run(Path(name), which, beside, wishes, note)
    if which is not None or beside is not None:
        raise RunError(
            "this is a model, which has no rounds", where=name, hint="leave --round and --beside out, or give a run"
        )
    return _of_model(name, wishes)


def _of_run(path: Path, which: str | None, beside: str | None, wishes: Wishes, note: Callable[[str], None]) -> Partners:
    results = open_run(path)
    recipe = results.recipe
    chosen = [choose_round(results, wanted) for wanted in (which, *([] if beside is None else [beside]))]
    if len({one.round for one in chosen}) < len(chosen):
        what = f"both are round {chosen[0].round}, {chosen[0].why}" if which is None else f"both are round {which}"
        raise RunError(what, where=str(path), hint="name two rounds, as with --round last --beside initial")
    policies: list[Policy] = []
    for one in chosen:
        note(f"round {one.round} of {path}, {one.why}")
        for remark in one.remarks:
            note(f"note: {remark}")
        with reading_checkpoint(results, one.round):
            policies.append(load_recipe_policy(recipe, one.checkpoint, policies[0] if policies else None))
    settings = _settled(sampling_settings(recipe.generate), wishes)
    system = recipe.data.system_prompt if wishes.system is None else wishes.system
    arguments = TemplateArguments(None, recipe.policy.chat_template_kwargs)
    conversations = {
        f"round {one.round}": Conversation(policy, settings, system, arguments)
        for one, policy in zip(chosen, policies, strict=True)
    }
    seed = recipe.seed if wishes.seed is None else wishes.seed
    return Partners(conversations, seed, settings.max_new_tokens)


def _of_model(name: str, wishes: Wishes) -> Partners:
    from align_cli.models.portable import load_adapter

    check_folder(name)
    is_adapter = (Path(name) / ADAPTER_CONFIG).is_file()
    policy = load_adapter(Path(name)) if is_adapter else load_policy(name, dtype=_own_dtype(name))
    settings = _settled(_own_settings(name, policy), wishes)
    conversations = {name: Conversation(policy, settings, wishes.system)}
    return Partners(conversations, wishes.seed or 0, settings.max_new_tokens)


def _own_dtype(name: str) -> str:
    """The type that a model's weights were saved in."""
    from transformers import AutoConfig

    with faults_of_a_model(name):
        return str(AutoConfig.from_pretrained(name).dtype or "float32").removeprefix("torch.")


def _own_settings(name: str, policy: Policy) -> SamplingSettings:
    """How a model is sampled by its own word: that of its folder, or of the base that an adapter is on."""
    from transformers import GenerationConfig

    own: Any = policy.model.generation_config
    if (Path(name) / "generation_config.json").is_file():
        own = GenerationConfig.from_pretrained(name)
    return SamplingSettings(
        own.temperature or 1.0, own.top_k or 0, own.top_p or 1.0, own.max_new_tokens or MAX_NEW_TOKENS
    )


def _settled(settings: SamplingSettings, wishes: Wishes) -> SamplingSettings:
    temperature = settings.temperature if wishes.temperature is None else max(wishes.temperature, COLDEST)
    return settings._replace(temperature=temperature, max_new_tokens=wishes.max_new_tokens or settings.max_new_tokens)


COLDEST = 1e-6
"""The lowest temperature that sampling divides by: all but greedy, which is what 0 asks for."""
