from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align_cli.engines import build_engine
from align_cli.engines.in_process import TransformersEngine
from align_cli.errors import RecipeError
from align_cli.recipe import Recipe, describe_keys, load_recipe
from align_cli.recipe.sections.generate import ENGINES

RECIPE = """\
output_dir: runs/first
policy: {model_name_or_path: playground}
data: {preferences: playground}
method: {sources: {offline: {mixing: 1.0}}}
train: {steps_per_round: 1}
"""


class Echo:
    name = "echo"

    def __init__(self, recipe: Recipe, note: Callable[[str], None], place: Any) -> None:
        self.recipe, self.note, self.place = recipe, note, place


def engine_type() -> str:
    return next(doc.type for doc in describe_keys() if doc.path == "generate.engine")


def test_a_recipe_makes_the_engine_that_it_names(tmp_path: Path) -> None:
    path, notes = tmp_path / "recipe.yaml", list[str]()
    path.write_text(RECIPE, encoding="utf-8")
    engine = build_engine(load_recipe(path, ["generate.batch_size=3"]), notes.append)
    assert isinstance(engine, TransformersEngine)
    assert engine.batch_size == 3
    engine.note("half")
    assert notes == ["half"]


def test_an_engine_of_the_table_is_a_key_and_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"generate\.engine is 'echo'; it must be one of transformers, server"):
        load_recipe(path, ["generate.engine=echo"])
    monkeypatch.setitem(ENGINES, "echo", f"{__name__}:Echo")
    recipe = load_recipe(path, ["generate.engine=echo"])
    engine = build_engine(recipe)
    assert isinstance(engine, Echo)
    assert engine_type() == "one of transformers, server, echo"
    with pytest.raises(RecipeError, match="did you mean echo"):
        load_recipe(path, ["generate.engine=ehco"])
