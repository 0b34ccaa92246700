"""What comes with align is found by name, in a checkout and in a wheel, and says what it is for."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from align_cli.errors import RecipeError
from align_cli.recipe.presets import preset_names, preset_text
from align_cli.recipe.shipped import about, recipe_names, recipe_text, versions_tested

ROOT = Path(__file__).parents[2]


def test_every_recipe_is_listed_and_shown_to_the_letter() -> None:
    assert recipe_names() == sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    for name in recipe_names():
        assert recipe_text(name) == (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        assert about(recipe_text(name)).summary.endswith(".")


def test_a_mistyped_name_is_told() -> None:
    with pytest.raises(RecipeError, match=r"did you mean quickstart\?"):
        recipe_text("quikstart")
    with pytest.raises(RecipeError, match="there are dpo, "):
        recipe_text("../pyproject")


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_says_which_paper_it_is_and_when_to_take_it(preset: str) -> None:
    found = about(preset_text(preset))
    assert found.papers and found.use and not found.summary.startswith("For ")
    assert re.search(r"[\w).]\.$", found.summary)


def test_the_versions_tested_are_known() -> None:
    assert versions_tested()["trl"].count(".") == 2


@pytest.mark.long
def test_a_wheel_holds_recipes_and_versions_tested_and_finds_them(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    source = tmp_path / "source"
    ignored = [f"--exclude={name}" for name in (".git", "models", "runs", "data", ".venv*", ".uv")]
    source.mkdir()
    packed = subprocess.run(["tar", "-C", str(ROOT), *ignored, "-cf", "-", "."], check=True, capture_output=True)
    subprocess.run(["tar", "-C", str(source), "-xf", "-"], input=packed.stdout, check=True)
    subprocess.run([*pip, str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import align_cli.recipe.shipped as shipped; "
        "print(shipped.__file__, len(shipped.recipe_names()), len(shipped.versions_tested()))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    place, num_recipes, num_versions = done.stdout.split()
    assert place.startswith(str(tmp_path / "site"))
    assert (int(num_recipes), int(num_versions)) == (len(recipe_names()), len(versions_tested()))
    assert (tmp_path / "site" / "align_cli" / "begin" / "recipe.yaml.jinja").is_file()
