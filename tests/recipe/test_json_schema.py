"""The JSON Schema of recipes takes every shipped recipe and preset, and finds the faults that stand at one key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from conftest import set_key, small_recipe
from jsonschema import Draft202012Validator

from align_cli.recipe import describe_keys, load_recipe, resolved
from align_cli.recipe.json_schema import recipe_schema
from align_cli.recipe.presets import preset_names
from align_cli.recipe.sections.labelers import LABELER_KINDS
from align_cli.recipe.written.reader import read_file
from align_cli.recipe.written.tree import plain

ROOT = Path(__file__).parents[2]
RECIPES = [*sorted((ROOT / "recipes").glob("*.yaml")), ROOT / "recipes" / "launch" / "judged.yaml"]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = recipe_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def tree_of(path: Path) -> Any:
    root = read_file(path)[1]
    assert root is not None
    return plain(root)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_coefficient_above_0_is_the_published_one_and_says_so(recipe: Path) -> None:
    sources = resolved(load_recipe(recipe, check_files=False))["method"]["sources"].values()
    if any(source.get("gradient") for source in sources if source):
        assert "published coefficient" in recipe.read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_is_one(validator: Draft202012Validator, recipe: Path) -> None:
    assert [error.message for error in validator.iter_errors(tree_of(recipe))] == []


def test_a_resolved_recipe_with_every_default_is_one(validator: Draft202012Validator) -> None:
    assert [error.message for error in validator.iter_errors(resolved(load_recipe(RECIPES[4])))] == []


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_need_not_be_repeated(validator: Draft202012Validator, preset: str) -> None:
    recipe: dict[str, Any] = {"output_dir": "run", "preset": preset, "policy": {}, "data": {}}
    recipe["train"] = {"steps_per_round": 3}
    assert [error.message for error in validator.iter_errors(recipe)] == []
    assert not validator.is_valid({**recipe, "preset": None})


FAULTS = [
    ("method.bta", 0.1, "'bta'"),
    ("method.beta", 0, "less than or equal to the minimum"),
    ("method.beta", "much", "'number'"),
    ("method.loss_type", "dpoo", "not valid under any"),
    ("method.sources.dpr.mixing", 1.5, "not valid under any"),
    ("method.sources.dpr.mixing", None, "'mixing' is a required property"),
    ("train.steps_per_round", None, "'steps_per_round' is a required property"),
    ("train.steps_per_rond", 3, "'steps_per_rond'"),
    ("train.save_steps", 3, "'save_steps'"),
    ("train.warmup_steps", "many", "'many' is not of type"),
    ("labelers.hidden.kind", "functon", "'functon' is not one of"),
    ("labelers.hidden.model", "a", "'model'"),
    ("labelers.hidden.kind", "judge", "'base_url' is a required property"),
    ("policy.dtype", "bf16", "'bf16' is not one of"),
    ("generate.engine", "vllm", "'vllm' is not one of"),
    ("preset", "sail", "'sail' is not valid under any"),
    ("rounds", 0, "less than the minimum"),
    ("data", None, "'data' is a required property"),
    ("evalute", {}, "'evalute'"),
]


@pytest.mark.parametrize(("key", "value", "said"), FAULTS, ids=[f"{key}={value}" for key, value, _ in FAULTS])
def test_a_fault_at_one_key_is_found(
    validator: Draft202012Validator, tmp_path: Path, key: str, value: Any, said: str
) -> None:
    recipe = copy.deepcopy(small_recipe(tmp_path))
    assert validator.is_valid(recipe)
    set_key(recipe, key, value)
    assert any(said in error.message for error in validator.iter_errors(recipe))


def test_names_that_are_read_as_others_are_allowed(validator: Draft202012Validator, tmp_path: Path) -> None:
    for loss in ("dpo", "slic", "sigmoid", ["sigmoid", "ipo"]):
        recipe = small_recipe(tmp_path)
        recipe["method"]["loss_type"] = loss
        assert validator.is_valid(recipe)


def test_every_key_is_there_with_what_it_is_for(validator: Draft202012Validator) -> None:
    schema = validator.schema
    assert set(schema["properties"]) == {doc.path for doc in describe_keys() if "." not in doc.path}
    method = schema["$defs"]["MethodSection"]["properties"]["beta"]
    assert (method["exclusiveMinimum"], method["default"]) == (0, 0.1)
    assert "reference" in method["description"]
    kinds = schema["properties"]["labelers"]["additionalProperties"]["properties"]["kind"]["enum"]
    assert set(LABELER_KINDS) <= set(kinds)
