"""`policy.lora`: adapters that are trained in place of all weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from align_cli.recipe.checking.files import empty_texts, missing_file
from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.data_names import PLAYGROUND

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe

KEY = "policy.lora"
ADAPTER_CONFIG = "adapter_config.json"
OTHER_NAMES = {
    f"{KEY}.r": "it is called rank",
    f"{KEY}.lora_r": "it is called rank",
    f"{KEY}.lora_rank": "it is called rank",
    f"{KEY}.lora_alpha": "it is called alpha",
    f"{KEY}.lora_dropout": "it is called dropout",
    f"{KEY}.lora_target_modules": "it is called target_modules",
    f"{KEY}.init_lora_weights": "it is called init",
}
"""Names that peft and other tools have for these keys."""
MANY_ROUNDS = 16
"""With more of them than this, merged updates are no longer small."""


class LoraSection(Section):
    """`policy.lora`: LoRA (Hu et al. 2021) on a frozen base, by peft."""

    rank: int = Field(16, ge=1, description="rank of each update")
    alpha: int = Field(32, ge=1, description="updates are scaled by alpha / rank, or alpha / sqrt(rank)")
    target_modules: str | list[str] = Field(
        "all-linear",
        description="layers that get an adapter: `all-linear`, a mixture's experts among them and the head not, a list "
        "of names such as `[q_proj, v_proj]`, or a regular expression",
    )
    modules_to_save: list[str] = Field(
        [], description="modules that are trained whole, and saved with the adapter, such as `[embed_tokens]`"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="of the adapters' inputs, in the warm start; preference training drops out nothing"
    )
    init: Literal["kaiming", "gaussian"] = Field(
        "kaiming", description="how the first factor is drawn; the second is 0, so that training begins at the base"
    )
    use_rslora: bool = Field(False, description="scale by alpha / sqrt(rank) (Kalajdzievski 2023)")
    use_dora: bool = Field(False, description="train lengths and directions apart (Liu et al. 2024)")
    adapter: str | None = Field(
        None, description="a folder of peft's to start from; rank, target modules and the like are then its own"
    )
    between_rounds: Literal["carry", "merge"] = Field(
        "carry",
        description="`carry`: a round goes on training the adapter; `merge`: what was trained is frozen, and a round "
        "trains a new adapter on top of it, with a new optimizer. Checkpoints hold the sum, whose rank grows by `rank` "
        "a round",
    )


def _base_is_there(view: View) -> Iterator[RuleFault]:
    is_new = view.has("policy.from_scratch") or view.get("policy.model_name_or_path") == PLAYGROUND
    if view.has(KEY) and is_new:
        what = "policy.lora with a new model, of which all weights have to be learnt"
        yield rule_fault(KEY, what, "leave policy.lora out, or name a model that is trained already")


def _adapter_brings_its_own(view: View) -> Iterator[RuleFault]:
    """A resolved recipe has every key; one that is as when left out says nothing against the adapter's."""
    written = view.written(KEY)
    for name in written if "adapter" in written else []:
        if (
            name not in ("adapter", "between_rounds")
            and view.get(f"{KEY}.{name}") != LoraSection.model_fields[name].default
        ):
            what = f"{KEY}.{name} beside {KEY}.adapter, which brings its own"
            yield rule_fault(f"{KEY}.{name}", what, "remove one")


def _updates_add_up(view: View) -> Iterator[RuleFault]:
    if view.has(KEY) and view.get(f"{KEY}.between_rounds") == "merge" and view.get(f"{KEY}.use_dora"):
        what = f"{KEY}.between_rounds is merge with {KEY}.use_dora, whose updates do not add up"
        yield rule_fault(f"{KEY}.between_rounds", what, "set it to carry, or leave use_dora out")


def _adapter_exists(view: View) -> Iterator[RuleFault]:
    yield from empty_texts(view, f"{KEY}.adapter")
    if value := view.sound(f"{KEY}.adapter"):
        yield from missing_file(f"{KEY}.adapter", value)


RULES: tuple[Rule, ...] = (_base_is_there, _adapter_brings_its_own, _updates_add_up)
FILE_RULES: tuple[Rule, ...] = (_adapter_exists,)


def _another_base(recipe: Recipe) -> list[str]:
    """An adapter of the same shape fits any base: whether it is this one's, its own config alone can tell."""
    lora, base = recipe.policy.lora, recipe.policy.model_name_or_path
    if lora is None or lora.adapter is None or base is None:
        return []
    try:
        written = json.loads((Path(lora.adapter) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        named = written["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        return []  # which is told when it is read
    if not isinstance(named, str) or Path(named).name.casefold() == Path(base).name.casefold():
        return []
    return [f"{KEY}.adapter was trained on {named}, says its {ADAPTER_CONFIG}, and policy.model_name_or_path is {base}"]


def _grows_large(recipe: Recipe) -> list[str]:
    lora, rounds = recipe.policy.lora, recipe.rounds
    if lora is None or lora.between_rounds == "carry" or rounds <= MANY_ROUNDS:
        return []
    size = "" if lora.adapter else f", of rank {rounds * lora.rank},"
    return [
        f"{KEY}.between_rounds is merge in a run of {rounds} rounds: in the last, the adapter{size} is {rounds} times "
        "as large as in the first, in memory and in checkpoints"
    ]


WARNINGS = (_another_base, _grows_large)
