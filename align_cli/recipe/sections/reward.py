"""`reward`: a reward model that the run fits on preferences before its first round.

What it writes is labeled with by labelers of kind `reward_model` whose `model_name_or_path` is `run`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from align_cli.recipe.checking.files import PATH_STARTS, empty_texts, missing_data, missing_file
from align_cli.recipe.checking.section import Section, Usual
from align_cli.recipe.checking.view import Rule, RuleFault, UnsoundError, View, rule_fault
from align_cli.recipe.data_names import BUILT_IN_WORLDS, exists
from align_cli.recipe.sections.data import DataSection
from align_cli.recipe.sections.labelers.reward_model import OF_RUN
from align_cli.recipe.written.tree import shown

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe

KEY = "reward"
OTHER_NAMES = {
    f"{KEY}.lora.r": "it is called rank",
    f"{KEY}.lora.lora_alpha": "it is called alpha",
    f"{KEY}.max_seq_length": "it is called max_length",
}
"""Names that peft and other tools have for these keys."""

OF_GRADIENT_STEPS = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "gradient_accumulation_steps",
)
"""Keys that a head on frozen features has no use for: its fit is the minimum itself."""


class RewardLoraSection(Section):
    """`reward.lora`: LoRA on a frozen base, by peft; the head is trained whole beside it."""

    rank: int = Field(16, ge=1, description="rank of each update")
    alpha: int = Field(32, ge=1, description="updates are scaled by alpha / rank, or alpha / sqrt(rank)")
    target_modules: str | list[str] = Field(
        "all-linear", description="layers that get an adapter: `all-linear`, a list of names, or a regular expression"
    )
    modules_to_save: list[str] = Field([], description="modules that are trained whole besides the head")
    init: Literal["kaiming", "gaussian"] = Field("kaiming", description="how the first factor is drawn")
    use_rslora: bool = Field(False, description="scale by alpha / sqrt(rank) (Kalajdzievski 2023)")
    use_dora: bool = Field(False, description="train lengths and directions apart (Liu et al. 2024)")


class RewardSection(Section):
    """`reward`: the stage that fits a reward model. Other keys of TrainingArguments pass through, to TRL's trainer."""

    model_config = ConfigDict(extra="allow")

    model_name_or_path: str = Field(
        description="a Hub id or a folder: a causal model, which gets a head, a sequence classifier, or an encoder"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a Hub model")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="type of the weights; training keeps float32 copies of others"
    )
    trust_remote_code: bool = Field(False, description="run code that ships with the model; off unless you read it")
    head: Literal["trained", "frozen"] = Field(
        "trained",
        description="`trained`: the head is trained with the model, or with its adapters; `frozen`: the model stays as "
        "it is, and a linear head is fitted on its features (of an encoder their mean, of a causal model the last)",
    )
    lora: RewardLoraSection | None = Field(
        None, description="train adapters on a frozen base; all weights when left out"
    )
    preferences: str | None = Field(None, description="the pairs; unset: `data.preferences`")
    eval_preferences: str | None = Field(
        None, description="held-out pairs, to measure it on; unset: a share of the pairs, by their prompts"
    )
    eval_share: float = Field(
        0.1, gt=0, lt=1, description="the share of the prompts whose pairs are held out, where no others are named"
    )
    num_train_epochs: float | None = Field(None, gt=0, description="passes over the pairs; unset: 1, or by max_steps")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps, in place of num_train_epochs")
    learning_rate: Annotated[float, Usual("1e-5 for all weights to 1e-4 for adapters is usual")] = Field(
        1.0e-4, gt=0, description="peak learning rate (TRL's default)"
    )
    per_device_train_batch_size: int = Field(8, ge=1, description="pairs a forward pass")
    gradient_accumulation_steps: int = Field(1, ge=1, description="forward passes an optimizer step")
    max_length: int | None = Field(
        1024, ge=1, description="longest prompt with its response in tokens; null: as long as the model can read"
    )
    too_long: Literal["drop", "cut"] = Field(
        "drop", description="what becomes of longer pairs in training: left out, or cut, as a labeler would see them"
    )
    center_rewards_coefficient: float | None = Field(
        None, ge=0, description="weight of (r_chosen + r_rejected)² beside the loss (Eisenstein et al. 2023, Eq. 2)"
    )
    ridge: Annotated[float, Usual("0.1 to 10 is usual")] = Field(
        1.0, gt=0, description="with `head: frozen`: weight of |w|² / 2 beside the mean loss, of standardised features"
    )

    @property
    def training_arguments(self) -> dict[str, Any]:
        """The keys that pass through to RewardConfig."""
        return dict(self.model_extra or {})

    @property
    def global_batch_size(self) -> int:
        """Pairs in an optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def model_folder(self) -> dict[str, str]:
        """Its model by key, where that is a folder."""
        is_path = self.model_name_or_path.startswith(PATH_STARTS) or exists(self.model_name_or_path)
        return {"model_name_or_path": self.model_name_or_path} if is_path else {}

    def code(self) -> list[str]:
        """The code outside align that it runs, in words."""
        model = self.model_name_or_path
        return [f"{KEY}.trust_remote_code: code that ships with {model}"] if self.trust_remote_code else []


def with_automatic_values(reward: RewardSection | None, data: DataSection) -> RewardSection | None:
    """Unset pairs are those of `data`; a built-in world brings its own held-out ones; there is one pass over them."""
    if reward is None:
        return None
    preferences = reward.preferences or data.preferences
    is_by_steps = reward.max_steps is not None or reward.head == "frozen"
    changed = {
        "preferences": preferences,
        "eval_preferences": reward.eval_preferences or (preferences if preferences in BUILT_IN_WORLDS else None),
        "num_train_epochs": reward.num_train_epochs or (None if is_by_steps else 1.0),
    }
    return reward.model_copy(update=changed)


def _there_are_pairs(view: View) -> Iterator[RuleFault]:
    if view.has(KEY) and view.get(f"{KEY}.preferences") is None and view.get("data.preferences") is None:
        what = f"{KEY}.preferences is not set, and neither is data.preferences: there is nothing to fit it on"
        yield rule_fault(f"{KEY}.preferences", what, "set one of them to pairs")


def _frozen_head_has_no_adapter(view: View) -> Iterator[RuleFault]:
    if view.has(f"{KEY}.lora") and view.get(f"{KEY}.head") == "frozen":
        what = f"{KEY}.lora with {KEY}.head frozen, where nothing but the head is fitted"
        yield rule_fault(f"{KEY}.lora", what, f"remove one: {KEY}.lora, or {KEY}.head")


def _steps_or_epochs(view: View) -> Iterator[RuleFault]:
    if view.get(f"{KEY}.max_steps") is not None and view.get(f"{KEY}.num_train_epochs") is not None:
        what = f"{KEY} has both num_train_epochs and max_steps"
        yield rule_fault(f"{KEY}.max_steps", what, "remove one")


def _labelers_of_the_run(view: View) -> Iterator[RuleFault]:
    for name in view.labeler_names():
        try:
            written = view.labeler(name)
        except UnsoundError:
            continue
        is_of_run = written["kind"] == "reward_model" and written["model_name_or_path"] == OF_RUN
        if is_of_run and not view.has(KEY):
            key = ("labelers", name, "model_name_or_path")
            what = f"{'.'.join(key)} is {OF_RUN}, and the recipe has no section {KEY}: this run fits no reward model"
            yield rule_fault(key, what, f"add the section {KEY}; a folder of that name is ./{OF_RUN}")


def _model_exists(view: View) -> Iterator[RuleFault]:
    key = f"{KEY}.model_name_or_path"
    yield from empty_texts(view, key, f"{KEY}.preferences", f"{KEY}.eval_preferences")
    value = view.sound(key) if view.has(KEY) else None
    if value in BUILT_IN_WORLDS:
        what = f"{key} is {shown(value)}; a reward model is fitted on a model that is there already"
        yield rule_fault(key, what, "name a folder or a Hub id")
    elif value is not None and value.startswith(PATH_STARTS):
        yield from missing_file(key, value)


def _pairs_exist(view: View) -> Iterator[RuleFault]:
    yield from missing_data(view, f"{KEY}.preferences", f"{KEY}.eval_preferences")


RULES: tuple[Rule, ...] = (
    _there_are_pairs,
    _frozen_head_has_no_adapter,
    _steps_or_epochs,
    _labelers_of_the_run,
)
FILE_RULES: tuple[Rule, ...] = (_model_exists, _pairs_exist)


def _without_effect(recipe: Recipe) -> list[str]:
    reward = recipe.reward
    if reward is None or reward.head == "trained":
        return []
    fields = type(reward).model_fields
    set_in_vain = [name for name in OF_GRADIENT_STEPS if getattr(reward, name) != fields[name].default]
    set_in_vain += reward.training_arguments
    if not set_in_vain:
        return []
    return [f"{KEY}.head is frozen: {', '.join(f'{KEY}.{name}' for name in set_in_vain)} have no effect"]


def _nobody_asks_it(recipe: Recipe) -> list[str]:
    if recipe.reward is None or any(labeler.artifacts() for labeler in recipe.labelers.values()):
        return []
    return [f"no labeler asks the reward model: one of kind reward_model does with model_name_or_path: {OF_RUN}"]


WARNINGS = (_without_effect, _nobody_asks_it)
