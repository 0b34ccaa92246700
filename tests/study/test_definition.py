"""From values to combinations and runs: names, recipes, faults with the combination that has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from align_cli.errors import AlignError
from align_cli.study.definition import ALONE, LONGEST_NAME, Definition, combinations_of, define, remarks
from align_cli.study.values import Axis, parse_axes

WriteRecipe = Callable[..., Path]


def names(*texts: str) -> list[str]:
    return [one.name for one in combinations_of(parse_axes(texts))]


def defined(recipe: Path, *texts: str, overrides: tuple[str, ...] = (), seeds: tuple[int, ...] = (0, 1)) -> Definition:
    return define(recipe, overrides, parse_axes(texts), seeds, for_tuning=False)


def test_every_combination_is_there_once_and_the_first_has_the_first_values() -> None:
    assert names("method.beta=0.1,0.2", "rounds=1,2") == [
        "beta-0.1_rounds-1",
        "beta-0.1_rounds-2",
        "beta-0.2_rounds-1",
        "beta-0.2_rounds-2",
    ]
    assert names() == [ALONE]


def test_keys_with_the_same_last_part_are_called_by_their_whole_names() -> None:
    assert names("method.sources.dpr.gradient=0", "method.sources.ddp.gradient=1") == [
        "method.sources.dpr.gradient-0_method.sources.ddp.gradient-1"
    ]


def test_a_value_has_a_name_of_its_own_in_front() -> None:
    found = combinations_of(parse_axes(["method.sources=off={offline: {mixing: 1}},on.2 = {dpr: {mixing: 1}}"]))
    assert [one.name for one in found] == ["sources-off", "sources-on.2"]
    assert found[0].overrides == ["method.sources={offline: {mixing: 1}}"]
    (pipe,) = combinations_of(parse_axes(["data.prompts=mine='a=b,c.jsonl'"]))
    assert (pipe.name, pipe.overrides) == ("prompts-mine", ["data.prompts='a=b,c.jsonl'"])
    assert combinations_of(parse_axes(["data.prompts=a=b.jsonl"]))[0].overrides == ["data.prompts=a=b.jsonl"]


def test_a_mapping_without_a_name_is_told_and_two_of_one_name_are_refused(
    tmp_path: Path, write_recipe: WriteRecipe
) -> None:
    recipe, advice = write_recipe(tmp_path), "reads better in tables with a name of its own: NAME={...}"
    both = ("{num_prompts: 8, scorer: hidden}", "{num_prompts: 9, scorer: hidden}")
    assert any(text.endswith(advice) for text in remarks(defined(recipe, f"evaluate={both[0]},{both[1]}")))
    assert not any(text.endswith(advice) for text in remarks(defined(recipe, f"evaluate=a={both[0]},b={both[1]}")))
    assert not any(text.endswith(advice) for text in remarks(defined(recipe, f"evaluate={both[0]}"))), "one value"
    begun = remarks(defined(recipe, f"evaluate={both[0]},{both[1]}"), begins=False)
    assert not any(text.endswith(advice) for text in begun), "its runs have their names"
    with pytest.raises(AlignError, match="two combinations are called evaluate-A") as refused:
        defined(recipe, f"evaluate=a={both[0]},A={both[1]}")
    assert refused.value.faults[0].where == f"--over evaluate=A={both[1]}"


@pytest.mark.parametrize("name", ["öff", "my off", "-off"])
def test_what_cannot_be_a_name_is_said_to_be_none(name: str) -> None:
    with pytest.raises(AlignError) as refused:
        parse_axes([f"method.sources={name}={{offline: {{mixing: 1}}}}"])
    assert refused.value.faults[0].what == f"{name!r} is no name for a value"


def test_a_key_keeps_its_own_spelling() -> None:
    assert names("generate.num_generations=2,4") == ["num_generations-2", "num_generations-4"]


def test_a_name_does_not_change_when_other_values_join() -> None:
    assert set(names("method.beta=0.1")) < set(names("method.beta=0.3,0.1,0.2"))


def test_values_that_read_alike_in_a_folders_name_have_names_of_their_own() -> None:
    found = names("data.prompts='a b.txt','a-b.txt','a  b.txt'")
    assert len(set(found)) == 3


def test_a_long_value_has_a_short_name_that_a_shell_takes() -> None:
    (name,) = names(f"method.sources={{offline: {{mixing: {'1' * 300}}}}}")
    assert len(name) <= LONGEST_NAME + 7
    assert not set(name) & set(" {}:/$")


def test_runs_come_seed_by_seed_with_recipes_of_their_own(tmp_path: Path, write_recipe: WriteRecipe) -> None:
    found = defined(write_recipe(tmp_path), "method.beta=0.1,0.2", overrides=("rounds=3",))
    assert [run.name for run in found.runs] == [
        "beta-0.1/seed-0",
        "beta-0.2/seed-0",
        "beta-0.1/seed-1",
        "beta-0.2/seed-1",
    ]
    recipe = found.recipe_of(found.runs[3], Path("there"))
    assert (recipe.method.beta, recipe.seed, recipe.output_dir, recipe.rounds) == (0.2, 1, "there", 3)


def test_a_runs_words_are_read_back_to_its_recipe(tmp_path: Path, write_recipe: WriteRecipe) -> None:
    from align_cli.recipe import load_recipe, resolved

    found = defined(write_recipe(tmp_path), "method.beta=0.1,0.2", overrides=("rounds=3",))
    place = tmp_path / 'a: "folder", with #signs'
    path, *overrides = found.words_of(found.runs[3], place)
    assert resolved(load_recipe(path, overrides)) == resolved(found.recipe_of(found.runs[3], place))


def test_an_unknown_key_is_told_once_with_the_nearest_that_there_is(tmp_path: Path, write_recipe: WriteRecipe) -> None:
    with pytest.raises(AlignError) as raised:
        defined(write_recipe(tmp_path), "method.bta=0.1,0.2")
    assert len(raised.value.faults) == 1
    assert raised.value.faults[0].what == "unknown key method.bta"
    assert raised.value.faults[0].hint == "did you mean method.beta?"


def test_a_value_that_the_recipe_refuses_is_told_with_its_combination(
    tmp_path: Path, write_recipe: WriteRecipe
) -> None:
    with pytest.raises(AlignError) as raised:
        defined(write_recipe(tmp_path), "method.beta=0.1,-1", "rounds=1,0")
    told = [fault.what for fault in raised.value.faults]
    assert told == [
        "rounds is 0; it must be at least 1 (in beta-0.1_rounds-0, beta--1_rounds-0)",
        "method.beta is -1; it must be above 0 (in beta--1_rounds-1, beta--1_rounds-0)",
    ]


@pytest.mark.parametrize(
    ("texts", "overrides", "said"),
    [
        (["method.beta=0.1,.1"], (), "are the same recipe"),
        (["method.beta=0.1"], ("seed=3",), "a study sets seed for each run"),
        (["method.beta=0.1"], ("output_dir=x",), "a study sets output_dir for each run"),
    ],
)
def test_what_makes_no_study_is_refused(
    tmp_path: Path, write_recipe: WriteRecipe, texts: list[str], overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(AlignError, match=said):
        defined(write_recipe(tmp_path), *texts, overrides=overrides)


def test_a_recipe_that_evaluates_nothing_is_no_study(tmp_path: Path, write_recipe: WriteRecipe) -> None:
    recipe = write_recipe(tmp_path, data__eval_prompts=None, evaluate=None)
    with pytest.raises(AlignError, match="there is nothing to compare"):
        defined(recipe)


def test_more_runs_than_anybody_means_are_refused_before_any_recipe_is_read(tmp_path: Path) -> None:
    axes = [Axis("method.beta", tuple(map(str, range(1, 200)))), Axis("rounds", tuple(map(str, range(1, 200))))]
    with pytest.raises(AlignError, match="39601 combinations under 2 seeds"):
        define(tmp_path / "missing.yaml", (), axes, (0, 1), for_tuning=False)


def test_combinations_that_are_not_measured_alike_are_told_before_they_run(
    tmp_path: Path, write_recipe: WriteRecipe
) -> None:
    told = remarks(defined(write_recipe(tmp_path), "evaluate.num_prompts=16,32"))
    assert any("are not measured alike (evaluate.num_prompts)" in text for text in told)
    answered = remarks(defined(write_recipe(tmp_path), "generate.max_new_tokens=8,16"))
    assert any("are not measured alike (generate.max_new_tokens)" in text for text in answered)
    colder = ("generate.temperature=0.7,1.0", "method.importance_weight_cap=10.0")
    told = remarks(defined(write_recipe(tmp_path), *colder))
    assert any("are not measured alike (generate.temperature)" in text for text in told)
    alike = remarks(defined(write_recipe(tmp_path), "method.beta=0.1,0.2"))
    assert not any("not measured alike" in text for text in alike)
    assert len(alike) == len(set(alike))


def test_a_reference_that_moves_on_is_told(tmp_path: Path, write_recipe: WriteRecipe) -> None:
    told = remarks(defined(write_recipe(tmp_path), "policy.reference=initial,previous"))
    assert any("reference-previous has a reference that moves on" in text for text in told)


def test_presets_in_files_are_called_by_their_files_and_two_of_one_name_are_refused(
    tmp_path: Path, write_recipe: WriteRecipe
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(f"method: {{beta: 0.{len(folder)}}}\n", encoding="utf-8")
    mine, other = (str(tmp_path / folder / "mine.yaml") for folder in ("a", "b"))
    assert names(f"preset={mine},offline-dpo") == ["mine", "offline-dpo"]
    with pytest.raises(AlignError, match="two combinations are called mine"):
        defined(write_recipe(tmp_path), f"preset={mine},{other}")
