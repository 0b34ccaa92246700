"""Keys of `train` whose optimizer, schedule, tracker or precision cannot be had: found before anything is sampled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from align_cli.errors import Fault, RecipeError
from align_cli.recipe import Recipe
from align_cli.training.buildable import check_sft_keys, check_train_keys

TinyRecipe = Callable[..., Recipe]


@pytest.fixture
def faults(tiny_recipe: TinyRecipe, tmp_path: Path) -> Callable[..., list[Fault]]:
    """`faults(*overrides)`: what is said of the keys of `train`."""

    def check(*overrides: str) -> list[Fault]:
        recipe = tiny_recipe(tmp_path, *overrides)
        with pytest.raises(RecipeError) as refused:
            check_train_keys(recipe)
        return list(refused.value.faults)

    return check


@pytest.mark.parametrize(
    ("key", "value", "says", "hint"),
    [
        ("optim", "adamw_bnb_8bit", "You need to install `bitsandbytes`", "install it, or change train.optim"),
        ("optim", "paged_lion_8bit", "You need to install `bitsandbytes`", "install it, or change train.optim"),
        ("optim", "adamw_torc", "adamw_torc is not a valid OptimizerNames", "did you mean train.optim=adamw_torch?"),
        (
            "optim_args",
            "momentum",
            "not enough values to unpack",
            "write names with values, as in optim_args: momentum=0.9",
        ),
        (
            "lr_scheduler_type",
            "cosine_with_min_lr",
            "One of min_lr or min_lr_rate should be set",
            "set train.lr_scheduler_kwargs, or change train.lr_scheduler_type",
        ),
        ("lr_scheduler_type", "reduce_lr_on_plateau", "requires an eval strategy", "change train.lr_scheduler_type"),
        ("report_to", "clearml", "ClearMLCallback requires", "install it, or change train.report_to"),
        ("report_to", "Wandb", "Wandb is not supported", "did you mean train.report_to=wandb?"),
        ("report_to", "paper", "paper is not supported", "change train.report_to, or leave it out"),
        ("tf32", "true", "requires Ampere or a newer GPU", "change train.tf32, or leave it out"),
        ("fsdp", "full_shard", "fsdp only works in distributed training", "change train.fsdp, or leave it out"),
        ("deepspeed", "zero.json", "deepspeed", "install it, or change train.deepspeed"),
        ("adam_beta1", "2", "Invalid beta parameter at index 0: 2", "change train.adam_beta1, or leave it out"),
        ("warmup_steps", "-3", "warmup_steps", "change train.warmup_steps, or leave it out"),
    ],
)
def test_a_key_that_cannot_be_had_is_named_with_what_is_wrong_and_a_remedy(
    faults: Callable[..., list[Fault]], key: str, value: str, says: str, hint: str
) -> None:
    (fault,) = faults(f"train.{key}={value}", "train.max_grad_norm=3")
    assert fault.where == f"override 'train.{key}={value}'"
    assert fault.what.startswith(f"train.{key} is ")
    assert "; training cannot be set up with it: " in fault.what
    assert says in fault.what
    assert fault.hint.startswith(hint)
    assert fault.key == f"train.{key}"


def test_all_keys_that_cannot_be_had_are_told_at_once(faults: Callable[..., list[Fault]]) -> None:
    found = faults(
        "train.report_to=[clearml, wandb, swanlab]",
        "train.weight_decay=0.1",
        "train.optim=adamw_bnb_8bit",
        "train.lr_scheduler_type=cosine_with_min_lr",
        "train.lr_scheduler_kwargs={min_lr_rat: 0.1}",
        "train.tf32=true",
    )
    assert [fault.key for fault in found] == [
        "train.report_to",
        "train.optim",
        "train.lr_scheduler_kwargs",
        "train.tf32",
    ]
    assert "ClearML" in found[0].what
    assert "SwanLab" in found[0].what


def test_keys_that_need_each_other_are_at_fault_in_neither_order(
    tiny_recipe: TinyRecipe, tmp_path: Path, faults: Callable[..., list[Fault]]
) -> None:
    sound = (
        "train.lr_scheduler_kwargs={min_lr_rate: 0.1}",
        "train.lr_scheduler_type=cosine_with_min_lr",
        "train.optim_args='momentum=0.9'",
        "train.optim=sgd",
    )
    check_train_keys(tiny_recipe(tmp_path, *sound))
    check_train_keys(tiny_recipe(tmp_path, *reversed(sound)))
    (fault,) = faults(*sound, "train.report_to=clearml")
    assert fault.key == "train.report_to"


def test_a_key_in_the_file_is_shown_with_its_line(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, train__optim="adamw_bnb_8bit")
    with pytest.raises(RecipeError) as refused:
        check_train_keys(recipe)
    (fault,) = refused.value.faults
    lines = (tmp_path / "recipe.yaml").read_text().splitlines()
    assert fault.line is not None
    assert lines[fault.line - 1].strip() == "optim: adamw_bnb_8bit"
    assert fault.where == f"{tmp_path / 'recipe.yaml'}:{fault.line}:{fault.column}"
    assert "optim: adamw_bnb_8bit" in fault.snippet


def test_a_failed_attempt_leaves_nothing_in_the_environment(faults: Callable[..., list[Fault]]) -> None:
    before = dict(os.environ)
    faults("train.fsdp=full_shard", "train.tf32=true")
    assert dict(os.environ) == before


def test_what_every_shipped_preset_and_recipe_asks_for_can_be_built(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    shipped = list((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
    assert shipped
    for path in shipped:
        train = yaml.safe_load(path.read_text(encoding="utf-8")).get("train", {})
        recipe = tiny_recipe(tmp_path, train={"steps_per_round": 2, **train})
        check_train_keys(recipe)
        check_sft_keys(recipe)


def test_bfloat16_needs_no_other_key_on_a_cpu(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "train.bf16=true")
    assert recipe.train.training_arguments["bf16"] is True and "use_cpu" not in recipe.train.training_arguments
    check_train_keys(recipe)
