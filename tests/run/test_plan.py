"""The order of a run's steps, for every shape of recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from run_fixtures import NO_EVALUATION, OFFLINE_ONLY, Align, MakeFolder, files_below

from align_cli.recipe import Recipe
from align_cli.run.plan import Step, last_of_round, partner, plan_steps

TinyRecipe = Callable[..., Recipe]
STARTS_FROM_A_MODEL = {"model_name_or_path": "./model"}


def plan(recipe: Recipe) -> list[str]:
    return [str(step) for step in plan_steps(recipe)]


def test_an_online_recipe_makes_its_policy_and_samples_each_round(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    assert plan(tiny_recipe(tmp_path)) == [
        "round 0 sft",
        "round 0 evaluate",
        "round 1 generate",
        "round 1 label",
        "round 1 train",
        "round 1 evaluate",
        "round 2 generate",
        "round 2 label",
        "round 2 train",
        "round 2 evaluate",
    ]


def test_an_offline_recipe_neither_samples_nor_labels(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    assert plan(tiny_recipe(tmp_path, rounds=1, **OFFLINE_ONLY)) == [
        "round 0 sft",
        "round 0 evaluate",
        "round 1 train",
        "round 1 evaluate",
    ]


def test_a_round_that_is_sampled_ahead_comes_before_the_training_of_the_round_before(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tmp_path, "generate.rounds_ahead=1", "rounds=3")
    assert plan(recipe)[2:] == [
        "round 1 generate",
        "round 1 label",
        "round 2 generate",
        "round 1 train",
        "round 1 evaluate",
        "round 2 label",
        "round 3 generate",
        "round 2 train",
        "round 2 evaluate",
        "round 3 label",
        "round 3 train",
        "round 3 evaluate",
    ]
    ahead = [str(step) for step in plan_steps(recipe) if partner(recipe, step)]
    assert ahead == ["round 2 generate", "round 3 generate"]
    assert [str(last_of_round(recipe, number)) for number in (1, 3)] == ["round 1 evaluate", "round 3 evaluate"]


def test_a_source_with_a_share_of_zero_is_not_sampled(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    overrides = ("method.sources.offline.mixing=1.0", "method.sources.dpr.mixing=0.0", "rounds=1")
    assert Step(1, "generate") not in plan_steps(tiny_recipe(tmp_path, *overrides))


def test_without_held_out_prompts_nothing_is_evaluated(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    assert plan(tiny_recipe(tmp_path, rounds=1, **NO_EVALUATION)) == [
        "round 0 sft",
        "round 1 generate",
        "round 1 label",
        "round 1 train",
    ]


def test_a_policy_that_exists_already_is_not_made(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    tmp_path.joinpath("model").mkdir()
    policy = {"model_name_or_path": str(tmp_path / "model")}
    assert plan(tiny_recipe(tmp_path, rounds=1, policy=policy)) == [
        "round 0 evaluate",
        "round 1 generate",
        "round 1 label",
        "round 1 train",
        "round 1 evaluate",
    ]
    assert plan(tiny_recipe(tmp_path, rounds=1, policy=policy, **OFFLINE_ONLY, **NO_EVALUATION)) == ["round 1 train"]


def test_a_warm_start_of_a_policy_that_exists_already_makes_a_policy(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    tmp_path.joinpath("model").mkdir()
    assert plan_steps(tiny_recipe(tmp_path, policy__model_name_or_path=str(tmp_path / "model")))[0] == Step(0, "sft")


def test_a_run_from_an_untrained_model_in_a_folder_copies_no_model_and_says_no_path(
    make_folder: MakeFolder, align: Align, tiny_policy_folder: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, policy=STARTS_FROM_A_MODEL, rounds=1)
    (folder / "model").symlink_to(tiny_policy_folder)
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert done.err.splitlines()[0] == "run: begins with round 0 evaluate"
    files = files_below(folder / "run" / "rounds")
    assert [name for name in files if name.startswith("000/")] == [
        "000/evaluation.json",
        "000/manifest.json",
        "000/samples.jsonl",
    ]
    places = (str(tmp_path).encode(), str(tiny_policy_folder).encode())
    assert [name for name, content in files.items() if any(place in content for place in places)] == []
