"""The trainers' arguments: `train` as TRL's DPOConfig, `reward` as its RewardConfig, `policy.sft` as transformers' own.

What align decides itself (steps, saving, logging, seeds, precision of the comparison) is set here; every other
TrainingArguments key passes through as the recipe has it. Whether it can be had on this machine is `buildable`'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from align_cli.recipe import Recipe
from align_cli.recipe.sections.policy import SftSection
from align_cli.recipe.sections.reward import RewardSection
from align_cli.seeds import derive_seed

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments
    from trl import DPOConfig, RewardConfig

Arguments = TypeVar("Arguments", bound="TrainingArguments")

ACCELERATES_DEVICE = "ACCELERATE_TORCH_DEVICE"
"""The variable that accelerate reads its device from."""

RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""TrainingArguments keys by the name that every supported transformers knows, and what newer ones call them."""


def dpo_config(
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device,
    use_cache: bool,
    passed: Mapping[str, Any] | None = None,
    num_processes: int = 1,
) -> DPOConfig:
    """TRL's arguments for this recipe.

    Departures from TRL's defaults: float32 and no gradient checkpointing unless the recipe says otherwise (TRL turns
    both on), no truncation (lengths are checked when pairs are read), no loss of a mixture's router beside the
    objective, NaN losses are shown rather than filtered.

    Args:
        recipe: the whole recipe.
        folder: what the trainer and transformers' own trackers may write to.
        device: where the policy is.
        use_cache: the model's own setting, which the trainer would otherwise overwrite and checkpoints would keep.
        passed: the keys that pass through; None takes those of the recipe.
        num_processes: that share a global batch; each is told of its own share alone.

    Raises:
        Exception: whatever TrainingArguments says of a value that it refuses; `buildable` has said it in words before.
    """
    from trl import DPOConfig

    train = recipe.train
    num_steps = train.steps_per_round * (recipe.rounds if train.schedule == "run" else 1)
    ours = {
        "output_dir": str(folder),
        "max_steps": num_steps,
        "learning_rate": train.learning_rate,
        # Which the trainer itself cuts into forward passes.
        "per_device_train_batch_size": recipe.global_batch_size // num_processes,
        "gradient_accumulation_steps": 1,
        **_loss(recipe),
        "seed": recipe.seed,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "max_length": None,
        "router_aux_loss_coef": 0.0,
        "remove_unused_columns": False,
        "use_cache": use_cache,
        "ignore_data_skip": True,
    }
    defaults = {
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    passed = dict(train.training_arguments if passed is None else passed)
    if "report_to" in passed:
        passed["report_to"] = train.other_trackers or "none"  # align itself tells the others
    return _on_device(device, DPOConfig, _as_named(DPOConfig, {**defaults, **passed, **ours}))


def reward_config(
    section: RewardSection,
    folder: Path,
    num_steps: int,
    *,
    seed: int,
    device: torch.device,
    use_cache: bool,
    passed: Mapping[str, Any] | None = None,
) -> RewardConfig:
    """TRL's arguments for a reward model; the departures from its defaults are those of `dpo_config`.

    Args:
        section: what the recipe says.
        folder: what the trainer may write to; nothing in it is kept.
        num_steps: optimizer steps.
        seed: the run's seed.
        device: where the model is.
        use_cache: the model's own setting.
        passed: the keys that pass through; None takes those of the section.

    Raises:
        Exception: whatever TrainingArguments says of a value that it refuses; `buildable` has said it in words before.
    """
    from trl import RewardConfig

    ours = {
        "output_dir": str(folder),
        "max_steps": num_steps,
        "learning_rate": section.learning_rate,
        "per_device_train_batch_size": section.per_device_train_batch_size,
        "gradient_accumulation_steps": section.gradient_accumulation_steps,
        "center_rewards_coefficient": section.center_rewards_coefficient,
        "max_length": None,  # lengths are ours
        "seed": derive_seed(seed, "reward") % 2**32,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "remove_unused_columns": False,
        "use_cache": use_cache,
        "ignore_data_skip": True,
    }
    defaults = {"bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "dataloader_pin_memory": False}
    passed = section.training_arguments if passed is None else passed
    return _on_device(device, RewardConfig, _as_named(RewardConfig, {**defaults, **passed, **ours}))


def sft_arguments(
    section: SftSection, folder: Path, *, seed: int, device: torch.device, use_cache: bool
) -> TrainingArguments:
    """The warm start's arguments: AdamW, a linear warm-up, a cosine decay to zero.

    Args:
        section: steps, batch size, learning rate.
        folder: what the trainer may write to; nothing in it is kept.
        seed: the run's seed.
        device: where the policy is.
        use_cache: the model's own setting.
    """
    from transformers import TrainingArguments

    keys = {
        "output_dir": str(folder),
        "max_steps": section.max_steps,
        "per_device_train_batch_size": section.per_device_train_batch_size,
        "learning_rate": section.learning_rate,
        "warmup_steps": section.warmup_steps,
        "weight_decay": section.weight_decay,
        "lr_scheduler_type": "cosine",
        "seed": derive_seed(seed, "sft") % 2**32,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cache": use_cache,
        "dataloader_pin_memory": False,
    }
    return _on_device(device, TrainingArguments, keys)


def _as_named(kind: type, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys by the names that the installed transformers has for them."""
    known = {field.name for field in fields(kind)}
    names = {old: new if new in known else old for old, new in RENAMED.items()}
    names.update({new: names[old] for old, new in RENAMED.items()})
    return {names.get(key, key): value for key, value in keys.items()}


def _on_device(device: torch.device, kind: type[Arguments], keys: Mapping[str, Any]) -> Arguments:
    """Arguments of training on this device: transformers takes the first accelerator, or all of them at once."""
    import torch

    if device.type == "cpu":
        return kind(**keys, use_cpu=True)
    os.environ[ACCELERATES_DEVICE] = str(device)
    try:
        arguments = kind(**keys)
    finally:
        del os.environ[ACCELERATES_DEVICE]
    vars(arguments).update(_setup_devices=device, _n_gpu=1)  # where they keep what they have found
    torch.accelerator.set_device_index(device)
    return arguments


def _loss(recipe: Recipe) -> dict[str, Any]:
    """The loss where it is TRL's own; align's has no need of these."""
    method = recipe.method
    if not method.uses_trl_loss:
        return {}
    names = ("beta", "loss_weights", *type(method).TRL_OPTIONS)
    return {"loss_type": method.loss_types, **{name: getattr(method, name) for name in names}}
