"""Every shipped recipe is sound, and every command that the README shows exists with its options and its recipe."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from align_cli.cli.main import app
from align_cli.recipe import load_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
README = ROOT / "README.md"
PIPES = {"|", "&&", "||", ";", "&", ">", ">>", "2>"}


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


def readme_commands() -> list[list[str]]:
    """The words of every `align ...` in the README's blocks of code, each command of a pipe on its own."""
    if not README.is_file():
        return []
    commands = []
    for block in re.findall(r"^```\w*\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words: list[str] = []
            lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            for word in [*_words(lexer), "|"]:
                if word in PIPES:
                    commands += [words] if words[:1] in (["align"], [".venv/bin/align"]) else []
                    words = []
                else:
                    words.append(word)
    return commands


def _words(lexer: shlex.shlex) -> list[str]:
    try:
        return list(lexer)
    except ValueError:  # prose with a lone quote
        return []


COMMANDS = readme_commands()


def test_the_readme_shows_commands() -> None:
    if not README.is_file():
        pytest.skip("there is no README.md yet")
    assert COMMANDS


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_exists_with_its_options_and_its_recipe(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    name, *arguments = words[1:]
    if name == "--help":
        return
    assert name in commands
    if not re.fullmatch(r"[A-Z]+|\[.*|.*\.\.\.\]?", " ".join(arguments[:1])):  # a placeholder is no recipe
        context = commands[name].make_context(name, list(arguments), resilient_parsing=False)
        recipe = context.params.get("recipe")
        if recipe is not None and Path(recipe).parts[0] == "recipes":
            overrides = list(context.params["overrides"] or [])
            is_whole = not has_files_of_the_users(Path(recipe))
            load_recipe(recipe, [*overrides, *needs(Path(recipe), tmp_path)], check_files=is_whole)
