"""Two processes on one run: the second begins while the first is at its last step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process_runs import Notes
from run_fixtures import MakeFolder, assert_same_runs

from align_cli.artifacts.records import Evaluation
from align_cli.errors import RunError
from align_cli.recipe import load_recipe
from align_cli.run import loop
from align_cli.run.folder import RunFolder


@pytest.fixture
def folder(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a recipe in it."""
    monkeypatch.chdir(make_folder(tmp_path))
    return tmp_path


def run_while(other: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[int]]:
    """Run the recipe; before it gets the lock, another process has it. What is said, and the rounds evaluated."""
    check_inputs, notes = loop.check_inputs, Notes()

    def meanwhile(*arguments: Any) -> None:
        check_inputs(*arguments)
        monkeypatch.setattr(loop, "check_inputs", check_inputs)
        other()

    monkeypatch.setattr(loop, "check_inputs", meanwhile)
    evaluations = loop.align_rounds(load_recipe("recipe.yaml"), notes)
    return notes.lines, [evaluation.round for evaluation in evaluations]


@pytest.mark.long
def test_a_run_that_another_process_finishes_meanwhile_is_said_to_be_finished(
    folder: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> None:
        loop.align_rounds(load_recipe("recipe.yaml"), Notes())

    said, rounds = run_while(other, monkeypatch)
    assert said == ["run is finished: 2 rounds; raise rounds= to go on"]
    assert rounds == [0, 1, 2]
    assert_same_runs(folder, finished)


class EndsAfterRoundOne(Notes):
    """Somebody presses Ctrl-C."""

    def evaluated(self, evaluation: Evaluation) -> None:
        if evaluation.round == 1:
            raise KeyboardInterrupt


@pytest.mark.long
def test_what_another_process_has_done_meanwhile_is_not_done_again(
    folder: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> None:
        with pytest.raises(KeyboardInterrupt):
            loop.align_rounds(load_recipe("recipe.yaml"), EndsAfterRoundOne())

    said, _ = run_while(other, monkeypatch)
    assert said[0] == "run: going on after round 1 evaluate, with round 2 generate"
    assert_same_runs(folder, finished)


def test_the_lock_is_held_by_one_and_free_again_when_its_holder_is_done(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with first.locked():
        with pytest.raises(RunError, match="the run is in use by"), second.locked():
            pass
        assert (first.lock.is_held, second.lock.is_held) == (True, False)
    with second.locked():
        assert second.lock.is_held
