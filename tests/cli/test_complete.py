"""What a shell is offered, by the protocol that Typer's scripts for shells speak."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_fixtures import MakeFolder
from warm_children import MAIN

NAMED = f"import sys; sys.argv[0] = 'align'; {MAIN}"


@pytest.fixture(scope="module")
def folder(make_folder: MakeFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = make_folder(tmp_path_factory.mktemp("completed"))
    for name in ("runs/first", "runs/second"):
        (place / name).mkdir(parents=True)
        (place / name / "run.json").write_text("{}")
        (place / name / "recipe.yaml").write_text("output_dir: a\n")
    (place / "recipes").mkdir()
    (place / "recipes" / "mine.yaml").write_text("# mine\noutput_dir: a\n")
    (place / "other.yaml").write_text("a: 1\n")
    return place


def offered(folder: Path, *words: str, shell: str = "bash") -> list[str]:
    """What comes back for the last of the words that stand behind `align`."""
    variables = {"_ALIGN_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        variables |= {"COMP_WORDS": " ".join(["align", *words]), "COMP_CWORD": str(len(words))}
    else:
        variables |= {"_TYPER_COMPLETE_ARGS": " ".join(["align", *words]), "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(
        [sys.executable, "-c", NAMED], cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_recipes_are_files_that_are_some_and_none_that_runs_keep(folder: Path) -> None:
    assert offered(folder, "train", "") == ["recipe.yaml", "recipes/mine.yaml"]
    assert offered(folder, "check", "recipes/m") == ["recipes/mine.yaml"]


def test_runs_are_folders_that_hold_one(folder: Path) -> None:
    assert offered(folder, "status", "") == ["runs/first", "runs/second"]
    assert offered(folder, "compare", "runs/first", "runs/s") == ["runs/second"]
    assert offered(folder, "train", "recipe.yaml", "--from", "runs/f") == ["runs/first"]


def test_a_key_is_offered_with_what_it_is_usually_set_to(folder: Path) -> None:
    assert offered(folder, "train", "recipe.yaml", "method.be") == ["method.beta=", "method.beta=0.1"]
    several = offered(folder, "train", "recipe.yaml", "train.p")
    assert "train.per_device_train_batch_size=" in several and "train.project=" in several


def test_a_value_is_offered_whether_the_shell_splits_words_or_not(folder: Path) -> None:
    whole = offered(folder, "train", "recipe.yaml", "preset=sail-d", shell="fish")
    assert whole == ["preset=sail-ddp", "preset=sail-dpp", "preset=sail-dpr", "preset=sail-dpr-as-published"]
    assert offered(folder, "train", "recipe.yaml", "preset", "=", "sail-dp") == [
        "sail-dpp",
        "sail-dpr",
        "sail-dpr-as-published",
    ]
    assert "dpo" in offered(folder, "train", "recipe.yaml", "method.loss_type", "=")


def test_labelers_are_those_of_the_recipe(folder: Path) -> None:
    keys = offered(folder, "train", "recipe.yaml", "labelers.ours.")
    assert "labelers.ours.function=" in keys and "labelers.ours.base_url=" not in keys
    assert offered(folder, "train", "recipe.yaml", "evaluate.scorer", "=") == ["hidden", "ours"]


def test_names_of_presets_and_recipes(folder: Path) -> None:
    assert offered(folder, "presets", "show", "sail-m") == ["sail-mix"]
    assert offered(folder, "recipes", "show", "quick") == ["quickstart"]
    assert offered(folder, "init", "--method", "spi") == ["spin"]


def test_what_is_wrong_with_a_recipe_is_no_matter_here(folder: Path) -> None:
    (folder / "broken.yaml").write_text("a: [\n")
    assert offered(folder, "train", "broken.yaml", "method.be") == ["method.beta=", "method.beta=0.1"]
    assert offered(folder, "train", "nothing.yaml", "seed", "=") == ["0"]
