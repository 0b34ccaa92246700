"""A minimal recipe that is sound, and ways to load it with changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from align_cli.errors import Fault, RecipeError
from align_cli.recipe import Recipe, load_recipe

MINIMAL = """\
output_dir: runs/first
policy:
  model_name_or_path: playground
data:
  prompts: playground
  preferences: playground
  eval_prompts: playground
labelers:
  hidden: {kind: function, function: "package.module:score"}
  given: {kind: dataset}
method:
  sources:
    offline: {mixing: 0.7}
    dpr: {mixing: 0.3, gradient: 0.3, labeler: hidden}
train:
  steps_per_round: 50
"""

Load = Callable[..., Recipe]
FaultsOf = Callable[..., list[Fault]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a recipe's text with overrides, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def load_text(*overrides: str, text: str = MINIMAL) -> Recipe:
        Path("recipe.yaml").write_text(text, encoding="utf-8")
        return load_recipe("recipe.yaml", overrides)

    return load_text


@pytest.fixture
def faults_of(load: Load) -> FaultsOf:
    """The faults of a recipe's text with overrides."""

    def faults(*overrides: str, text: str = MINIMAL) -> list[Fault]:
        with pytest.raises(RecipeError) as caught:
            load(*overrides, text=text)
        return list(caught.value.faults)

    return faults


@pytest.fixture
def minimal() -> str:
    """The text of the minimal recipe."""
    return MINIMAL
