"""What the section `reward` may say, and whom a labeler of the run's own reward model needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from align_cli.errors import Fault
from align_cli.recipe import Recipe, code_that_runs, dump, load_recipe, resolved, warnings_for
from align_cli.recipe.sections.labelers.reward_model import REWARD_MODEL

Load = Callable[..., Recipe]
FaultsOf = Callable[..., list[Fault]]
REWARD = "reward={model_name_or_path: org/base}"
OF_RUN = "labelers.mine={kind: reward_model, model_name_or_path: run}"


def said(faults_of: FaultsOf, *overrides: str) -> list[str]:
    return [fault.what for fault in faults_of(*overrides)]


def test_its_pairs_are_those_of_the_data_and_a_world_brings_held_out_ones(load: Load) -> None:
    recipe = load(REWARD, "data.preferences=org/pairs")
    assert recipe.reward is not None
    assert (recipe.reward.preferences, recipe.reward.eval_preferences) == ("org/pairs", None)
    assert (recipe.reward.num_train_epochs, recipe.reward.max_steps, recipe.reward.learning_rate) == (1.0, None, 1e-4)
    of_world = load(REWARD).reward
    assert of_world is not None and (of_world.preferences, of_world.eval_preferences) == ("playground", "playground")
    by_steps = load(REWARD, "reward.max_steps=7").reward
    assert by_steps is not None and by_steps.num_train_epochs is None


def test_without_the_section_there_is_none(load: Load) -> None:
    assert load().reward is None and resolved(load())["reward"] is None


def test_what_it_resolves_to_reads_back(load: Load, tmp_path: Path) -> None:
    recipe = load(REWARD, "reward.lora={rank: 4}", "reward.warmup_steps=3", "reward.adam_beta2=0.98", OF_RUN)
    (tmp_path / "dumped.yaml").write_text(dump(recipe), encoding="utf-8")
    again = load_recipe(tmp_path / "dumped.yaml")
    assert again == recipe
    assert list(resolved(recipe)["reward"])[-2:] == ["adam_beta2", "warmup_steps"]


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (
            [REWARD, "data.preferences=null", "method.sources.offline=null", "method.sources.dpr.mixing=1"],
            "reward.preferences is not set, and neither is data.preferences: there is nothing to fit it on",
        ),
        (
            [REWARD, "reward.head=frozen", "reward.lora={rank: 4}"],
            "reward.lora with reward.head frozen, where nothing but the head is fitted",
        ),
        (
            [REWARD, "reward.max_steps=3", "reward.num_train_epochs=2"],
            "reward has both num_train_epochs and max_steps",
        ),
        (
            [OF_RUN],
            "labelers.mine.model_name_or_path is run, and the recipe has no section reward: this run fits no reward "
            "model",
        ),
        (
            ["reward={model_name_or_path: ./not/there}"],
            "reward.model_name_or_path is './not/there'; there is no such file or folder",
        ),
        (
            ["reward={model_name_or_path: playground}"],
            "reward.model_name_or_path is 'playground'; a reward model is fitted on a model that is there already",
        ),
        (
            [REWARD, "reward.preferences=none.jsonl"],
            "reward.preferences is 'none.jsonl'; there is no such file or folder",
        ),
        (
            [REWARD, "reward.eval_preferences=reviews"],
            "reward.eval_preferences is reviews, and the recipe has no section reviews",
        ),
        (["reward={head: frozen}"], "reward.model_name_or_path is missing"),
        ([REWARD, "reward.eval_share=1"], "reward.eval_share is 1; it must be above 0 and below 1"),
        ([REWARD, "reward.head=linear"], "reward.head is 'linear'; it must be one of trained, frozen"),
        ([REWARD, "reward.save_steps=3"], "reward.save_steps is refused: align sets it itself"),
        ([REWARD, "reward.report_to=wandb"], "reward.report_to is refused: align sets it itself"),
        ([REWARD, "reward.warmup_steps=many"], "reward.warmup_steps is 'many'; it must be a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faults(faults_of: FaultsOf, overrides: list[str], what: str) -> None:
    assert said(faults_of, *overrides) == [what]


def test_an_unknown_key_has_the_nearest_as_remedy(faults_of: FaultsOf) -> None:
    (fault,) = faults_of(REWARD, "reward.learning_rat=0.1")
    assert (fault.what, fault.hint) == ("unknown key reward.learning_rat", "did you mean reward.learning_rate?")
    (fault,) = faults_of(REWARD, "reward.lora={r: 4}")
    assert (fault.what, fault.hint) == ("unknown key reward.lora.r", "it is called rank")


def test_a_folder_called_run_is_not_meant(load: Load, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    recipe = load(REWARD, OF_RUN, "labelers.other={kind: reward_model, model_name_or_path: ./run}")
    assert recipe.labelers["mine"].artifacts() == (REWARD_MODEL,) and recipe.labelers["mine"].files() == {}
    assert recipe.labelers["other"].artifacts() == ()
    assert recipe.labelers["other"].files() == {"model_name_or_path": "./run"}


def test_what_has_no_effect_and_who_asks_nobody_is_said(load: Load) -> None:
    unasked = "no labeler asks the reward model: one of kind reward_model does with model_name_or_path: run"
    assert unasked in warnings_for(load(REWARD))
    assert unasked not in warnings_for(load(REWARD, OF_RUN)) + warnings_for(load())
    frozen = load(REWARD, OF_RUN, "reward.head=frozen", "reward.max_steps=3", "reward.adam_beta2=0.9")
    assert "reward.head is frozen: reward.max_steps, reward.adam_beta2 have no effect" in warnings_for(frozen)
    assert not [line for line in warnings_for(load(REWARD, OF_RUN, "reward.head=frozen")) if "no effect" in line]


def test_code_that_ships_with_its_base_is_named(load: Load) -> None:
    trusted = load(REWARD, "reward.trust_remote_code=true")
    assert "reward.trust_remote_code: code that ships with org/base" in code_that_runs(trusted)
