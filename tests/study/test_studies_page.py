"""The page on studies: its commands exist with their options, and its example is what the code shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from align_cli.cli.main import app
from align_cli.recipe import load_recipe
from align_cli.study.definition import combinations_of, define
from align_cli.study.values import parse_axes, parse_seeds

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words[1:] for line in lines if (words := shlex.split(line))[:1] == ["align"]]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_page_exists_with_its_options(words: list[str]) -> None:
    name, *arguments = words
    commands_there = get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands_there
    context = commands_there[name].make_context(name, list(arguments))
    if name == "study":
        assert parse_axes(context.params["over"])
        assert parse_seeds(context.params["seeds"], for_tuning=context.params["for_tuning"])


def test_the_example_is_a_study_whose_combinations_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (words,) = [words for words in commands() if "recipes/quickstart.yaml" in words]
    context = get_command(app).commands["study"].make_context("study", words[1:])  # type: ignore[attr-defined]
    axes = parse_axes(context.params["over"])
    found = define(Path(context.params["recipe"]), context.params["overrides"], axes, (0,), for_tuning=False)
    assert [one.name for one in found.combinations if one.name not in PAGE] == []


def test_the_section_that_the_page_gives_as_a_value_is_one(tmp_path: Path, write_recipe: object) -> None:
    (text,) = re.findall(r'--over "(method\.sources=[^"]*)"', PAGE)
    (axis,) = parse_axes([text.replace("labeler: mine", "labeler: hidden")])
    assert len(axis.values) == 2
    recipe = write_recipe(tmp_path)  # type: ignore[operator]
    for one in combinations_of([axis]):
        load_recipe(recipe, one.overrides)
