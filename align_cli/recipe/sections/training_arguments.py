"""Keys of `train` and `reward` that pass through to TrainingArguments: which there are, and which align sets itself.

The names and types are read off the source of the installed transformers, which is parsed and never imported: importing
it would take seconds and load torch.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from align_cli.errors import nearest
from align_cli.recipe.checking.section import Section
from align_cli.recipe.sections.reward import RewardSection
from align_cli.recipe.sections.train import TrainSection
from align_cli.recipe.written.scalars import rewritten
from align_cli.recipe.written.tree import shown

PASSING_SECTIONS: dict[str, type[Section]] = {"train": TrainSection, "reward": RewardSection}
"""The sections of a recipe whose other keys pass through, by name."""

_RESUME = "align goes on where a run stopped; run the same command again"
_CHECKPOINTS = "align writes a checkpoint each round; for more, set checkpoints.every_steps"
_EVALUATE = "set evaluate.num_prompts, evaluate.against and evaluate.scorer"
_LENGTH = "set rounds and train.steps_per_round"
_ORDER = "the mixture of method.sources decides the order of the pairs; leave it out"
_LENGTHS = "set data.max_prompt_tokens and data.max_completion_tokens"
_HUB = "push the run's folder yourself when it is finished"
_COLUMNS = "align hands over its own batches; leave it out"

_OWNED_BY_ALIGN = {
    "output_dir": "set output_dir at the top of the recipe",
    "seed": "set seed at the top of the recipe",
    "data_seed": "set seed at the top of the recipe",
    "max_steps": _LENGTH,
    "num_train_epochs": _LENGTH,
    "load_best_model_at_end": _CHECKPOINTS,
    "metric_for_best_model": _CHECKPOINTS,
    "greater_is_better": _CHECKPOINTS,
    "enable_jit_checkpoint": _CHECKPOINTS,
    "resume_from_checkpoint": _RESUME,
    "ignore_data_skip": _RESUME,
    "restore_callback_states_from_checkpoint": _RESUME,
    "do_train": "run `align train`",
    "do_eval": _EVALUATE,
    "do_predict": "run `align generate`",
    "per_device_eval_batch_size": _EVALUATE,
    "prediction_loss_only": _EVALUATE,
    "batch_eval_metrics": _EVALUATE,
    "include_for_metrics": _EVALUATE,
    "remove_unused_columns": _COLUMNS,
    "label_names": _COLUMNS,
    "dataloader_drop_last": "every step of a round has a whole batch; leave it out",
    "auto_find_batch_size": "the shares of method.sources need a known size; set train.per_device_train_batch_size",
    "push_to_hub": _HUB,
    "group_by_length": _ORDER,
    "train_sampling_strategy": _ORDER,
    "length_column_name": _ORDER,
    "use_liger_kernel": "align computes the loss itself; leave it out",
    "liger_kernel_config": "align computes the loss itself; leave it out",
    "label_smoothing_factor": "set method.label_smoothing, for the losses that look at it",
    "neftune_noise_alpha": "log-probabilities would be those of a noisy model; leave it out",
    "logging_steps": "every step is written to training.jsonl; leave it out",
    "logging_strategy": "every step is written to training.jsonl; leave it out",
    "logging_first_step": "every step is written to training.jsonl; leave it out",
    "logging_nan_inf_filter": "losses are shown unfiltered; leave it out",
    "use_cache": "align sets it; leave it out",
    "local_rank": "the launcher sets it",
    "use_cpu": "set policy.device to cpu",
}
_OWNED_PREFIXES = {
    "save_": _CHECKPOINTS,
    "eval_": _EVALUATE,
    "hub_": _HUB,
    "push_to_hub_": _HUB,
}
_GONE_FROM_TRANSFORMERS = {
    "warmup_ratio": "set train.warmup_steps to a number below 1, a share of all steps",
    "evaluation_strategy": _EVALUATE,
    "no_cuda": "set policy.device to cpu",
    "overwrite_output_dir": _RESUME,
}
_FROM_TRL = {
    "beta": "set method.beta",
    "loss_type": "set method.loss_type",
    "loss_weights": "set method.loss_weights",
    "label_smoothing": "set method.label_smoothing",
    "max_length": _LENGTHS,
    "max_prompt_length": "set data.max_prompt_tokens",
    "max_completion_length": "set data.max_completion_tokens, or generate.max_new_tokens for what the policy writes",
    "truncation_mode": "set data.too_long to cut: prompts lose their beginning, responses their end",
    "precompute_ref_log_probs": "align takes care of the reference itself; leave it out",
    "precompute_ref_batch_size": "align takes care of the reference itself; leave it out",
    "sync_ref_model": "set policy.reference to previous for a reference that follows the policy",
    "ref_model_mixup_alpha": "set policy.reference to previous for a reference that follows the policy",
    "ref_model_sync_steps": "set policy.reference to previous for a reference that follows the policy",
    "model_init_kwargs": "set policy.dtype, policy.attn_implementation, policy.revision and policy.trust_remote_code",
    "trust_remote_code": "set policy.trust_remote_code",
    "f_divergence_type": "set method.f_divergence_type",
    "f_alpha_divergence_coef": "set method.f_alpha_divergence_coef",
    "use_weighting": "set method.use_weighting",
    "discopop_tau": "set method.discopop_tau",
    "ld_alpha": "set method.ld_alpha",
    "simpo_gamma": "set method.simpo_gamma",
    "reference_free": "set method.loss_type to simpo",
    "disable_dropout": "align keeps TRL's default; leave it out",
    "padding_free": _COLUMNS,
    "dataset_num_proc": _COLUMNS,
    "pad_to_multiple_of": _COLUMNS,
    "pad_token": _COLUMNS,
    "activation_offloading": "set train.gradient_checkpointing to save memory",
    "router_aux_loss_coef": "leave it out",
}


_NOT_OF_REWARD = {
    "report_to": "its figures are in reward.json, reward_training.jsonl and the ledger; leave it out",
    "logging_dir": "no tracker is told of it; leave it out",
    "run_name": "no tracker is told of it; leave it out",
    "project": "no tracker is told of it; leave it out",
}
"""Keys that `train` passes through and `reward` does not."""


class PassThroughFault(NamedTuple):
    """What is wrong with a pass-through key, and the remedy."""

    is_value: bool
    what: str
    hint: str


@functools.cache
def training_argument_types() -> Mapping[str, str]:
    """Each field of the installed TrainingArguments with its annotation; empty where transformers is not installed."""
    spec = importlib.util.find_spec("transformers")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "training_args.py"
        if file.is_file():
            return MappingProxyType(_annotated_fields(file.read_text(encoding="utf-8"), "TrainingArguments"))
    return MappingProxyType({})


@functools.cache
def training_argument_names() -> list[str]:
    """The keys of TrainingArguments that a recipe may set in `train`."""
    return [name for name in training_argument_types() if _refusal(name) is None]


def passing_names(section: str) -> list[str]:
    """The keys of TrainingArguments that may stand in a section, `train` or `reward`, beside its own."""
    if section == "train":
        return training_argument_names()
    return [name for name in training_argument_types() if _refusal_of_reward(name) is None]


def argument_json_types(name: str) -> list[str]:
    """The types that JSON has for a key of TrainingArguments; empty where anything may stand there."""
    parts = _parts(training_argument_types()[name])
    known = [_JSON_TYPES[part] for part in parts if part in _JSON_TYPES]
    return list(dict.fromkeys(known)) if len(known) == len(parts) or "str" in parts else []


def check_training_argument(name: str, value: Any, section: str = "train") -> PassThroughFault | None:
    """What is wrong with a key of `train` or `reward` that is not in the schema, if anything."""
    key = f"{section}.{shown(name)[1:-1]}"
    refusal = _refusal(name) if section == "train" else _refusal_of_reward(name)
    if refusal is not None:
        return PassThroughFault(False, f"{key} is refused: {refusal[0]}", refusal[1])
    known = training_argument_types()
    if not known:
        return None
    if name not in known:
        return PassThroughFault(False, f"unknown key {key}", _suggestion(name, section))
    words = _wanted(known[name], value)
    if not words:
        return None
    written = rewritten(value, words)
    return PassThroughFault(True, f"{key} is {shown(value)}; it must be {words}", f"write {written}" if written else "")


def _refusal(name: str) -> tuple[str, str] | None:
    prefix = next((prefix for prefix in _OWNED_PREFIXES if name.startswith(prefix)), None)
    hint = _OWNED_BY_ALIGN.get(name) or _OWNED_PREFIXES.get(prefix or "")
    if hint and (name in training_argument_types() or name in _OWNED_BY_ALIGN or not training_argument_types()):
        return "align sets it itself", hint
    if name in _GONE_FROM_TRANSFORMERS:
        return "TrainingArguments no longer has it", _GONE_FROM_TRANSFORMERS[name]
    return ("it is TRL's, not TrainingArguments'", _FROM_TRL[name]) if name in _FROM_TRL else None


def _refusal_of_reward(name: str) -> tuple[str, str] | None:
    """As for `train`, whose hints are about preference training; but steps and epochs are keys of its own."""
    if name in _NOT_OF_REWARD:
        return "align sets it itself", _NOT_OF_REWARD[name]
    refusal = _refusal(name)
    return None if refusal is None else (refusal[0], "leave it out")


def _suggestion(name: str, section: str) -> str:
    near = nearest(name, [*PASSING_SECTIONS[section].model_fields, *training_argument_names()])
    return (
        f"did you mean {section}.{near}?"
        if near
        else f"{section} takes its own keys and those of transformers' TrainingArguments"
    )


def _annotated_fields(source: str, class_name: str) -> dict[str, str]:
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef) and statement.name == class_name:
            return {
                field.target.id: ast.unparse(field.annotation)
                for field in statement.body
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            }
    return {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda value: type(value) is int),
    "float": ("a number", _is_number),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("text", lambda value: isinstance(value, str)),
    "dict": ("a section", lambda value: isinstance(value, dict)),
    "list": ("a list", lambda value: isinstance(value, list)),
    "None": ("null", lambda value: value is None),
}


_JSON_TYPES = {
    "int": "integer", "float": "number", "bool": "boolean", "str": "string",
    "dict": "object", "list": "array", "None": "null",
}  # fmt: skip


def _wanted(annotation: str, value: Any) -> str:
    """What the value must be, in words, where it is nothing that the annotation allows; else empty."""
    parts = _parts(annotation)
    checks = [_CHECKS[part] for part in parts if part in _CHECKS]
    if any(check(value) for _, check in checks) or (len(checks) < len(parts) and "str" not in parts):
        return ""
    return " or ".join(words for words, _ in checks)


def _parts(annotation: str) -> list[str]:
    """The types that an annotation allows, without what is in them."""
    return [part.strip() for part in re.sub(r"\[[^]]*\]", "", annotation).split("|")]
