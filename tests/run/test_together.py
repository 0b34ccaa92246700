"""Two processes on one run: the second begins while the first is at its last step."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from in_process_runs import Notes
from run_fixtures import MakeFolder, assert_same_runs

from align_cli.artifacts.records import Evaluation
from align_cli.recipe import load_recipe
from align_cli.run import loop
from align_cli.run.folder import RunFolder


def test_a_run_that_another_process_finishes_meanwhile_is_said_to_be_finished(
    make_folder: MakeFolder, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked at the manifests, checked its inputs, and got the lock when nothing was left to do."""
    folder = make_folder(tmp_path)
    monkeypatch.chdir(folder)
    check_inputs = loop.check_inputs
    notes = Notes()

    def slow(*arguments: object) -> None:
        check_inputs(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(loop, "check_inputs", check_inputs)
        loop.align_rounds(load_recipe("recipe.yaml"), Notes())  # the other process, from its first step to its last

    monkeypatch.setattr(loop, "check_inputs", slow)
    evaluations = loop.align_rounds(load_recipe("recipe.yaml"), notes)
    assert notes.lines == ["run is finished: 2 rounds; raise rounds= to go on"]
    assert [evaluation.round for evaluation in evaluations] == [0, 1, 2]
    assert_same_runs(folder, finished)


class EndsAfterRoundOne(Notes):
    """Somebody presses Ctrl-C."""

    def evaluated(self, evaluation: Evaluation) -> None:
        if evaluation.round == 1:
            raise KeyboardInterrupt


def test_what_another_process_has_done_meanwhile_is_not_done_again(
    make_folder: MakeFolder, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path)
    monkeypatch.chdir(folder)
    check_inputs = loop.check_inputs
    notes = Notes()

    def slow(*arguments: object) -> None:
        check_inputs(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(loop, "check_inputs", check_inputs)
        with pytest.raises(KeyboardInterrupt):
            loop.align_rounds(load_recipe("recipe.yaml"), EndsAfterRoundOne())

    monkeypatch.setattr(loop, "check_inputs", slow)
    loop.align_rounds(load_recipe("recipe.yaml"), notes)
    assert notes.lines[0] == "run: going on after round 1 evaluate, with round 2 generate"
    assert_same_runs(folder, finished)


def test_the_lock_is_free_again_when_its_holder_is_done(tmp_path: Path) -> None:
    held = threading.Event()

    def hold() -> None:
        with RunFolder(tmp_path / "run").locked():
            held.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    thread.join()
    with RunFolder(tmp_path / "run").locked():
        pass
