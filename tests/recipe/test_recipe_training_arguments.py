"""Keys of TrainingArguments in `train`."""

from __future__ import annotations

import dataclasses

import pytest

from align_cli.recipe.sections.method import MethodSection
from align_cli.recipe.sections.training_arguments import training_argument_types


def test_the_names_read_from_the_source_are_those_of_the_class():
    from transformers import TrainingArguments

    assert set(training_argument_types()) == {field.name for field in dataclasses.fields(TrainingArguments)}


def test_known_keys_pass_through(load):
    recipe = load(
        "train.bf16=true",
        "train.weight_decay=0",
        "train.report_to=[tensorboard]",
        "train.lr_scheduler_type=cosine",
        "train.gradient_checkpointing_kwargs={use_reentrant: false}",
        "train.full_determinism=true",
        "train.warmup_steps=0.1",
        "train.tf32=null",
    )
    assert recipe.train.training_arguments["bf16"] is True
    assert recipe.train.training_arguments["lr_scheduler_type"] == "cosine"
    assert "replay_rounds" not in recipe.train.training_arguments


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        ("train.max_grad_nrom=5", "unknown key train.max_grad_nrom", "did you mean train.max_grad_norm?"),
        ("train.steps_per_rond=5", "unknown key train.steps_per_rond", "did you mean train.steps_per_round?"),
        ("train.bf16=yes", "train.bf16 is 'yes'; it must be true or false", "write true"),
        ("train.bf16=1", "train.bf16 is 1; it must be true or false", ""),
        ("train.weight_decay=true", "train.weight_decay is true; it must be a number", ""),
        ("train.weight_decay='0.1'", "train.weight_decay is '0.1'; it must be a number", "write 0.1"),
        ("train.dataloader_num_workers=1.5", "train.dataloader_num_workers is 1.5; it must be a whole number", ""),
        ("train.optim=5", "train.optim is 5; it must be text", "write '5' in quotes"),
        (
            "train.output_dir=x",
            "train.output_dir is refused: align sets it itself",
            "set output_dir at the top of the recipe",
        ),
        ("train.seed=1", "train.seed is refused: align sets it itself", "set seed at the top of the recipe"),
        (
            "train.max_steps=1",
            "train.max_steps is refused: align sets it itself",
            "set rounds and train.steps_per_round",
        ),
        (
            "train.beta=1",
            "train.beta is refused: it is TRL's, not TrainingArguments'",
            "set method.beta",
        ),
    ],
)
def test_other_keys_and_values_are_faults(faults_of, override, what, hint):
    (fault,) = faults_of(override)
    assert (fault.what, fault.hint) == (what, hint)


@pytest.mark.parametrize(
    "key",
    [
        "data_seed",
        "num_train_epochs",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "load_best_model_at_end",
        "resume_from_checkpoint",
        "ignore_data_skip",
        "do_train",
        "do_eval",
        "eval_strategy",
        "eval_steps",
        "per_device_eval_batch_size",
        "remove_unused_columns",
        "dataloader_drop_last",
        "push_to_hub",
        "hub_model_id",
        "group_by_length",
        "train_sampling_strategy",
        "warmup_ratio",
        "loss_type",
        "max_length",
        "precompute_ref_log_probs",
    ],
)
def test_what_align_owns_is_refused_with_where_to_set_it(faults_of, key):
    (fault,) = faults_of(f"train.{key}=x")
    assert "is refused" in fault.what
    assert fault.hint


@pytest.mark.parametrize(
    "key",
    [
        "beta", "loss_type", "loss_weights", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef",
        "use_weighting", "discopop_tau", "ld_alpha", "simpo_gamma",
    ],
)  # fmt: skip
def test_a_key_of_trls_loss_is_one_of_the_methods(faults_of, key):
    (fault,) = faults_of(f"train.{key}=1")
    assert fault.hint == f"set method.{key}"
    assert key in MethodSection.model_fields


def test_every_key_that_trl_adds_has_an_answer(faults_of):
    from transformers import TrainingArguments
    from trl import DPOConfig

    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    for name in {field.name for field in dataclasses.fields(DPOConfig)} - known:
        (fault,) = faults_of(f"train.{name}=x")
        assert "is refused" in fault.what, name
