"""`align status` of a study's folder: what its runs are at, read from the folder alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import files_below, times_below

from align_cli.errors import RunError
from align_cli.recipe import to_yaml
from align_cli.run.folder import RunFolder
from align_cli.study.folder import StudyFolder
from align_cli.study.standing import study_status

Align = Callable[..., Any]
ASKED = {"recipe": "recipe.yaml", "overrides": [], "over": {"method.beta": ["0.1", "0.3"]}, "for_tuning": False}


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Path:
    """A study of four runs: one is finished, one stands before its second round, of one the recipe is damaged."""
    runs = tmp_path / "study/runs"
    for name in ("beta-0.1/seed-3", "beta-0.3/seed-3", "beta-0.1/seed-4"):
        shutil.copytree(finished / "run", runs / name)
    shutil.rmtree(runs / "beta-0.3/seed-3/rounds/002")
    (runs / "beta-0.1/seed-4/recipe.yaml").write_text("rounds: [")
    (tmp_path / "study/study.yaml").write_text(to_yaml({**ASKED, "seeds": [3, 4]}))
    return tmp_path / "study"


def test_a_study_is_shown_run_by_run(begun: Path, align: Align) -> None:
    files, times = files_below(begun), times_below(begun)
    shown = align("status", "study", cwd=begun.parent)
    assert (shown.code, shown.err) == (0, "")
    lines = [line.strip() for line in shown.out.splitlines() if line.strip()]
    assert lines[0] == "study: a study of 4 runs: 1 finished, 1 interrupted, 1 damaged, 1 not begun"
    assert lines[1] == "not running: `align study` with the same arguments goes on where it stopped"
    rows = {line.split()[0]: line for line in lines if line.startswith("beta-")}
    assert list(rows) == ["beta-0.1/seed-3", "beta-0.3/seed-3", "beta-0.1/seed-4"]
    assert rows["beta-0.1/seed-3"].split()[1:6] == ["finished", "10", "of", "10", "2"]
    assert rows["beta-0.3/seed-3"].split()[1:5] == ["interrupted", "6", "of", "10"]
    assert rows["beta-0.1/seed-4"].split()[1].startswith("damaged")
    assert (files_below(begun), times_below(begun)) == (files, times)


def test_json_has_the_state_and_the_latest_evaluation_of_every_run(begun: Path, align: Align) -> None:
    told = json.loads(align("status", "study", "--json", cwd=begun.parent).out)
    assert (told["state"], told["holder"], told["seconds_left"]) == ("interrupted", None, None)
    by_run = {run["run"]: run for run in told["runs"]}
    assert list(by_run) == ["beta-0.1/seed-3", "beta-0.3/seed-3", "beta-0.1/seed-4", "beta-0.3/seed-4"]
    assert by_run["beta-0.1/seed-3"]["evaluation"]["round"] == 2
    assert by_run["beta-0.3/seed-4"]["state"] == "not begun"


def test_a_study_at_work_has_a_time_left_by_the_runs_that_are_finished(begun: Path) -> None:
    folder = StudyFolder(begun)
    with folder.locked():
        status = study_status(begun)
        assert status is not None and status.state == "running"
        assert status.seconds_left is None, "no run is at work"
        with RunFolder(begun / "runs/beta-0.3/seed-3").lock.held():
            status = study_status(begun)
            assert status is not None
            events = status.runs[0].status.ledger if status.runs[0].status else []
            took = sum(event["seconds"] for event in events if event["event"] == "finish")
            # Three runs are left, and the ledger of the one at work says that it took as long already.
            assert status.seconds_left == pytest.approx(2 * took)


def test_a_study_that_does_not_say_what_it_is_is_refused_and_another_folder_is_none(begun: Path) -> None:
    (begun / "study.yaml").write_text("over: 3\n")
    with pytest.raises(RunError, match="it does not say what is studied here"):
        study_status(begun)
    assert study_status(begun / "runs") is None
