"""The worked examples of CONTRIBUTING.md: on a copy of the repository they are written, applied, checked and tested."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks

PAGE = ROOT / "CONTRIBUTING.md"
COPIED = ("align_cli", "docs", "recipes", "pyproject.toml", ".importlinter", "tests/conftest.py")
EXAMPLES = {"a stage", "a labeler", "an engine", "a loss", "a preset"}


def written() -> dict[str, str]:
    """The page's files, by the name in their first line."""
    found = {}
    for block in blocks(PAGE):
        name, _, text = block.text.partition("\n")
        if block.language in ("python", "yaml") and re.fullmatch(r"# [\w./-]+\.(py|yaml)", name):
            found[name.removeprefix("# ")] = text
    return found


def apply(text: str, folder: Path) -> None:
    """Change a file as a block says: what it has of old lines stands there once, and gives way to the new ones."""
    name, _, lines = text.partition("\n")
    path = folder / name.removeprefix("--- ")
    old = "".join(f"{line[1:]}\n" for line in lines.splitlines() if not line.startswith("+"))
    new = "".join(f"{line[1:]}\n" for line in lines.splitlines() if not line.startswith("-"))
    before = path.read_text(encoding="utf-8")
    assert before.count(old) == 1, f"{name}: these lines are not there, or several times:\n{old}"
    path.write_text(before.replace(old, new), encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in COPIED:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    for name, text in written().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for block in blocks(PAGE):
        if block.language == "diff":
            apply(block.text, tmp_path)
    return tmp_path


def test_the_page_has_an_example_of_each_thing_to_add() -> None:
    headings = re.findall(r"^### (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {heading.lower() for heading in headings} == EXAMPLES
    assert len([name for name in written() if name.startswith("tests/")]) == len(EXAMPLES)


@pytest.mark.long
def test_all_examples_together_pass_the_checks_and_their_tests(copy: Path) -> None:
    programs = Path(sys.executable).parent
    tests = [name for name in written() if name.startswith("tests/")]
    commands = [
        [str(programs / "ruff"), "check", "--no-cache", "."],
        [str(programs / "ruff"), "format", "--no-cache", "--check", "."],
        [str(programs / "lint-imports"), "--no-cache"],
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests],
    ]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    for command in commands:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
