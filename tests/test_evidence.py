"""The studies behind docs/evidence.md: each is one that `align study` takes, and the page has no other."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from forked import run_align
from typer.main import get_command

from align_cli.cli.main import app
from align_cli.study.definition import Definition, define
from align_cli.study.values import parse_axes, parse_seeds

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
ARMS = sorted((ROOT / "recipes" / "evidence" / "arms").glob("*.yaml"))


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evidence", ROOT / "benchmarks" / "evidence.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


STUDIES, ELSEWHERE = benchmark().studies(), benchmark().elsewhere()


def defined(words: list[str]) -> Definition:
    context = get_command(app).commands["study"].make_context("study", list(words))  # type: ignore[attr-defined]
    asked = context.params
    axes, seeds = parse_axes(asked["over"]), parse_seeds(asked["seeds"], for_tuning=asked["for_tuning"])
    return define(Path(asked["recipe"]), asked["overrides"] or [], axes, seeds, for_tuning=asked["for_tuning"])


def folder_with_its_files(folder: Path) -> Path:
    """What the recipes about real data and a real model name, as small files and folders of those names."""
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for name in ("reviews/liked.txt", "reviews/disliked.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("a sentence\n")
    (folder / "data").mkdir()
    for name in ("data/alpaca.json", "data/pairs.json"):
        (folder / name).write_text("[]")
    return folder


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_sound_and_has_ten_seeds_three_where_a_run_takes_long(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder_with_its_files(tmp_path) if name in ELSEWHERE else ROOT)
    definition = defined([*STUDIES[name].words, "-o", "runs/evidence"])
    assert definition.seeds == tuple(range(3 if name in ELSEWHERE else 10))
    assert len(definition.combinations) >= 2


def test_every_arm_is_in_a_study_and_says_what_it_is() -> None:
    named = " ".join(word for study in STUDIES.values() for word in study.words)
    assert [
        arm.name for arm in ARMS if arm.name not in named and not arm.stem.startswith(("more-k2", "iterative-k2"))
    ] == []
    assert [arm.name for arm in ARMS if not arm.read_text(encoding="utf-8").startswith("# ")] == []


def test_the_page_has_the_commands_of_studies_that_can_be_run() -> None:
    blocks = re.findall(r"^```bash\n(align study .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    known = {frozenset(study.words) for study in STUDIES.values()}
    typed = [shlex.split(block.replace("\\\n", " "))[2:] for block in blocks]
    assert typed
    assert [words for words in typed if frozenset(words[: words.index("-o")]) not in known] == []


@pytest.mark.long
def test_a_run_that_another_study_has_finished_is_copied_and_found_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    evidence = benchmark()
    recipe = write_recipe(tmp_path, rounds=1, evaluate__num_prompts=16)
    monkeypatch.chdir(tmp_path)
    one = evidence.Study("one", (str(recipe), "--over", "method.beta=0.1,0.3", "--seeds", "1"))
    other = evidence.Study(
        "other", (str(recipe), "method.beta=0.3", "--over", "train.learning_rate=5e-4,1e-3", "--seeds", "1")
    )

    def carried_out(study: Any) -> str:
        evidence.copy_finished(study, evidence.RUNS / study.folder)
        folder = evidence.RUNS / study.folder
        done = run_align("study", *study.words, "-o", folder, "--no-pictures", cwd=tmp_path)
        assert done.code == 0, done.err
        return done.err

    assert "2 settings under 1 seed: 2 runs; " in carried_out(one)
    assert "2 settings under 1 seed: 2 runs, of which 1 is finished" in carried_out(other)
