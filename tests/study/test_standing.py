"""`align status` of a study's folder: what its runs are at, read from the folder alone."""

from __future__ import annotations

import calendar
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import files_below, times_below

from align_cli.errors import RunError
from align_cli.recipe import to_yaml
from align_cli.run.results import Results
from align_cli.run.status import RunStatus, status_of
from align_cli.study import standing
from align_cli.study.folder import StudyFolder
from align_cli.study.standing import StudyToWatch

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
    assert lines[2].startswith("beta-0.1/seed-4: ") and "YAML" in lines[2]
    rows = {line.split()[0]: line for line in lines[3:] if line.startswith("beta-")}
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


def test_a_study_at_work_has_a_time_left_by_how_its_runs_have_ended_since_it_began(begun: Path) -> None:
    study, folder = StudyToWatch(begun), StudyFolder(begun)
    with folder.locked():
        status = study.look()
        assert status.state == "running" and status.holder is not None
        assert status.seconds_left(time.time()) is None, "none has come to its end since"
        events = status.runs[0].status.ledger if status.runs[0].status else []
        ended = calendar.timegm(time.strptime(events[-1]["time"], "%Y-%m-%dT%H:%M:%SZ"))
        earlier = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ended - 60))
        began = replace(status, holder=status.holder._replace(since=earlier))
        # One of two that are left has not begun, one was interrupted; the damaged one is not tried again.
        assert began.seconds_left(ended + 30.0) == pytest.approx(2 * 90)


def test_what_was_asked_for_last_says_what_is_left_and_older_tables_are_not_its_own(
    begun: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    asked = {**ASKED, "over": {"method.beta": ["0.1"]}, "seeds": [3]}
    (begun / "study.yaml").write_text(to_yaml(asked))
    (begun / "results.json").write_text(json.dumps(asked))
    status = StudyToWatch(begun).look()
    assert (status.state, status.others, status.has_tables) == ("finished", 2, True)
    (begun / "study.yaml").write_text(to_yaml({**asked, "overrides": ["rounds=3"]}))
    status = StudyToWatch(begun).look()
    assert (status.state, status.has_tables) == ("interrupted", False)
    assert status.runs[0].to_dict()["planned"] == 14


def test_a_finished_run_is_read_once_however_often_one_looks(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def counted(results: Results) -> RunStatus:
        looked.append(results.folder.path.name)
        return status_of(results)

    monkeypatch.setattr(standing, "status_of", counted)
    study = StudyToWatch(begun)
    assert study.look().runs == study.look().runs
    assert len(looked) == 3


def test_a_study_that_another_machine_holds_is_not_said_to_stand_still(begun: Path, align: Align) -> None:
    (begun / ".lock").write_text(" elsewhere pid 12 since 2026-11-27 10:00:00\n")
    shown = align("status", "study", cwd=begun.parent)
    assert "in use by elsewhere pid 12 since 2026-11-27 10:00:00, on another machine" in shown.out
    assert json.loads(align("status", "study", "--json", cwd=begun.parent).out)["holder"]["lives"] is None


@pytest.mark.parametrize(
    "text", ["over: 3\n", to_yaml({**ASKED, "seeds": ["x"]}), to_yaml({**ASKED, "seeds": []}), to_yaml(ASKED)]
)
def test_a_study_that_does_not_say_what_it_is_is_refused(begun: Path, text: str) -> None:
    (begun / "study.yaml").write_text(text)
    with pytest.raises(RunError, match="it does not say what is studied here"):
        StudyToWatch(begun).look()
