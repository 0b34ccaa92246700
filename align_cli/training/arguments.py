"""A recipe's `train` section as TRL's DPOConfig.

What align decides itself (steps, saving, logging, seeds, precision of the comparison) is set here; every other
TrainingArguments key passes through as the recipe has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.errors import RecipeError
from align_cli.recipe import Recipe

if TYPE_CHECKING:
    from trl import DPOConfig


RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Deprecated TrainingArguments keys that users still write, and what they are called now."""


def dpo_config(recipe: Recipe, scratch_dir: Path, *, use_cache: bool) -> DPOConfig:
    """TRL's arguments for this recipe.

    Departures from TRL's defaults: float32 and no gradient checkpointing unless the recipe says otherwise (TRL turns
    both on), no truncation (lengths are checked when pairs are read), NaN losses are shown rather than filtered.

    Args:
        recipe: the whole recipe.
        scratch_dir: a folder that the trainer may write to; nothing in it is kept.
        use_cache: the model's own setting, which the trainer would otherwise overwrite and checkpoints would keep.

    Raises:
        RecipeError: if TrainingArguments refuses a value.
    """
    from trl import DPOConfig

    train = recipe.train
    num_steps = train.steps_per_round * (recipe.rounds if train.schedule == "run" else 1)
    ours = {
        "output_dir": str(scratch_dir),
        "max_steps": num_steps,
        "learning_rate": train.learning_rate,
        "per_device_train_batch_size": train.per_device_train_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        **_loss(recipe),
        "seed": recipe.seed,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "max_length": None,
        "remove_unused_columns": False,
        "use_cache": use_cache,
        "ignore_data_skip": True,
    }
    defaults = {
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    passed = {RENAMED.get(key, key): value for key, value in train.training_arguments.items()}
    try:
        return DPOConfig(**{**defaults, **passed, **ours})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"TrainingArguments refuses the section: {error}", where="train") from error


def _loss(recipe: Recipe) -> dict[str, Any]:
    """The loss where it is TRL's own; align's has no need of these."""
    method = recipe.method
    if not method.uses_trl_loss:
        return {}
    names = ("beta", "loss_weights", *type(method).TRL_OPTIONS)
    return {"loss_type": method.loss_types, **{name: getattr(method, name) for name in names}}
