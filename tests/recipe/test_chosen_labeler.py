"""`--labeler NAME` as overrides: any labeler of the recipe, and `person` without a section."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from align_cli.errors import RecipeError
from align_cli.recipe import load_recipe
from align_cli.recipe.chosen_labeler import chosen_labeler

IN_ITS_PLACE = "method.sources.dpr.labeler="


@pytest.fixture
def path(write_recipe: Callable[..., Path], tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


def test_a_labeler_of_the_recipe_takes_the_place(path: Path) -> None:
    assert chosen_labeler(path, [], "hidden") == [f"{IN_ITS_PLACE}hidden"]


def test_a_person_needs_no_section(path: Path) -> None:
    added = chosen_labeler(path, [], "person")
    recipe = load_recipe(path, added)
    assert recipe.method.sources.dpr is not None
    assert recipe.method.sources.dpr.labeler == "person"
    assert recipe.labelers["person"].kind == "person"


def test_a_person_is_the_recipes_own_where_it_has_one(path: Path) -> None:
    assert chosen_labeler(path, ["labelers.me={kind: person}"], "person") == [f"{IN_ITS_PLACE}me"]
    named = ["labelers.person={kind: function, function: 'a.py:f'}", "labelers.me={kind: person}"]
    assert chosen_labeler(path, named, "person") == [f"{IN_ITS_PLACE}person"]


def test_which_of_two_people_is_asked_for(path: Path) -> None:
    with pytest.raises(RecipeError, match="2 labelers of kind person") as caught:
        chosen_labeler(path, ["labelers.me={kind: person}", "labelers.you={kind: person}"], "person")
    assert caught.value.faults[0].hint == "name one of them: --labeler me or --labeler you"


def test_a_source_of_labelled_pairs_is_needed_and_a_presets_counts(path: Path) -> None:
    with pytest.raises(RecipeError, match="gives no share"):
        chosen_labeler(path, ["method.sources={offline: {mixing: 1}}"], "person")
    preset = ["method.sources=null", "preset=iterative-dpo"]
    assert chosen_labeler(path, preset, "hidden") == [f"{IN_ITS_PLACE}hidden"]


@pytest.mark.parametrize("text", ["", "- a list", "labelers: 3\nmethod: 4", "method: {sources: [1]}", "{", "a: *b"])
def test_a_recipe_that_cannot_be_read_is_left_to_who_loads_it(text: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(text, encoding="utf-8")
    added = chosen_labeler(broken, [], "person")
    with pytest.raises(RecipeError):
        load_recipe(broken, added)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("persons", "did you mean --labeler person?"),
        ("hiden", "did you mean --labeler hidden?"),
        ("function", "did you mean --labeler hidden?"),
        ("judge", "name one of hidden, given, person; person needs no section"),
    ],
)
def test_a_name_that_no_labeler_has_is_told_with_the_nearest_and_those_of_its_kind(
    name: str, hint: str, path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        chosen_labeler(path, ["labelers.given={kind: dataset}"], name)
    (fault,) = caught.value.faults
    assert fault.what == f"--labeler is '{name}'; labelers defines no such labeler"
    assert fault.hint == hint


def test_a_labeler_with_a_fault_of_its_own_is_told_of_that(path: Path) -> None:
    assert chosen_labeler(path, ["labelers.other=3"], "other") == [f"{IN_ITS_PLACE}other"]
