"""`train`: the train stage's own keys; `training_arguments` knows the others, which pass through."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from align_cli.recipe.checking.files import empty_texts
from align_cli.recipe.checking.section import Section, Usual
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.data_names import exists
from align_cli.recipe.written.tree import shown

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe


TRACKERS = ("wandb", "tensorboard", "trackio", "mlflow")
"""Trackers that are told of a whole run; others of `report_to` are transformers' own, told of training alone."""


class TrainSection(Section):
    """`train`: the train stage. Any other key of transformers' TrainingArguments passes through."""

    model_config = ConfigDict(extra="allow")

    learning_rate: Annotated[float, Usual("5e-7 to 5e-6 is usual for a pretrained model")] = Field(
        1.0e-6, gt=0, description="peak learning rate (TRL's default for DPO)"
    )
    per_device_train_batch_size: int = Field(8, ge=1, description="pairs a forward pass")
    gradient_accumulation_steps: int = Field(1, ge=1, description="forward passes an optimizer step")
    per_device_max_tokens: int | None = Field(
        None,
        ge=1,
        description="most tokens of a forward pass as they stand in memory, padding among them, a prompt once where it "
        "is read once for its responses: a batch is then cut by its lengths too, at the same global batch; a single "
        "pair may have more; unset: by pairs alone",
    )
    kernel: Literal["fast", "plain"] = Field(
        "fast",
        description="how models read a batch: a prompt once for all of its responses, and the head at responses alone; "
        "or each sequence as it is, all logits made, to compare with",
    )
    steps_per_round: int = Field(ge=1, description="optimizer steps a round")
    schedule: Literal["run", "round"] = Field(
        "run", description="the learning-rate schedule spans the whole run, or starts anew each round"
    )
    reset_optimizer_each_round: bool = Field(False, description="drop Adam's moments at the start of each round")
    replay_rounds: int = Field(0, ge=0, description="earlier rounds whose pairs join the round's own")
    source_grad_norms: Literal["round", "step", "never"] = Field(
        "round",
        description="when the gradient norm of each source is measured, for the price of a step: at each round's first "
        "step, at every step, or never",
    )

    logging_dir: str | None = Field(
        None, description="folder for what the trackers of train.report_to write; unset: tracking/ in output_dir"
    )

    @property
    def trackers(self) -> list[str]:
        """The trackers that are told of the whole run."""
        return [name for name in TRACKERS if name in self._report_to]

    @property
    def other_trackers(self) -> list[str]:
        """Trackers of transformers' own that are told of training."""
        return [name for name in self._report_to if name not in TRACKERS]

    @property
    def _report_to(self) -> list[str]:
        """The names in `report_to`, each once; of `all`, those that are installed."""
        value = self.training_arguments.get("report_to")
        names = [value] if isinstance(value, str) else value or []
        if names == ["all"]:
            return [name for name in TRACKERS if importlib.util.find_spec(name) is not None]
        return list(dict.fromkeys(name for name in names if name != "none"))

    @property
    def training_arguments(self) -> dict[str, Any]:
        """The keys that pass through to TrainingArguments."""
        return dict(self.model_extra or {})


def _replay_without_weights(recipe: Recipe) -> list[str]:
    is_exact = recipe.method.sources.has_gradient or recipe.method.kl.is_full
    if recipe.train.replay_rounds and is_exact and recipe.method.importance_weight_cap is None:
        return ["train.replay_rounds without method.importance_weight_cap: replayed responses are another policy's"]
    return []


def _fp16(recipe: Recipe) -> list[str]:
    if recipe.train.training_arguments.get("fp16"):
        return ["train.fp16: a run that was interrupted may end in other bytes than one that was not; bf16 may not"]
    return []


def _logs_are_a_folder(view: View) -> Iterator[RuleFault]:
    yield from empty_texts(view, "train.logging_dir")
    value = view.sound("train.logging_dir")
    if value is not None and exists(value) and not Path(value).is_dir():
        what = f"train.logging_dir is {shown(value)}, which is no folder"
        yield rule_fault("train.logging_dir", what, "name a folder; it need not be there")


FILE_RULES: tuple[Rule, ...] = (_logs_are_a_folder,)
WARNINGS = (_replay_without_weights, _fp16)
