"""Every shipped recipe is sound; what the pages show of recipes is `docs/`'s."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from align_cli.recipe import load_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def needs(recipe: Path, folder: Path) -> list[str]:
    """The overrides without which a recipe has no data: two small files in place of the user's own."""
    if not re.search(r"^reviews:", recipe.read_text(), re.MULTILINE):
        return []
    overrides = []
    for key in ("liked", "disliked"):
        text = folder / f"{key}.txt"
        text.write_text("".join(f"the film number {number} was {key} .\n" for number in range(100)))
        overrides.append(f"reviews.{key}={text}")
    return overrides


def has_files_of_the_users(recipe: Path) -> bool:
    """Whether it names files that whoever runs it has; `test_real_recipes.py` runs it with some."""
    return re.search(r"\b(data|models)/", recipe.read_text(encoding="utf-8")) is not None


def test_there_are_recipes() -> None:
    assert "quickstart.yaml" in [path.name for path in RECIPES]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_shipped_recipe_is_sound_and_has_a_folder_of_its_own(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    loaded = load_recipe(recipe, needs(recipe, tmp_path), check_files=not has_files_of_the_users(recipe))
    assert loaded.output_dir.startswith("runs/")
    others = [path.read_text() for path in RECIPES if path != recipe]
    assert [text for text in others if re.search(rf"^output_dir: {loaded.output_dir}\s*$", text, re.MULTILINE)] == []
    assert recipe.read_text().startswith("#")
