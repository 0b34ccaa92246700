"""What a report shows of a study, where it is not there yet, or not what was written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from align_cli.errors import RunError
from align_cli.study.reported import study_report


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Path:
    """A study of which one run has begun."""
    shutil.copytree(finished / "run", tmp_path / "study/runs/beta-0.1/seed-3")
    (tmp_path / "study/study.yaml").touch()
    return tmp_path / "study"


def test_a_study_without_results_has_its_runs_alone(begun: Path) -> None:
    told = study_report(begun)
    assert told is not None
    assert told["tables"] == []
    path = str(begun / "runs/beta-0.1/seed-3")
    assert told["runs"] == [{"combination": "beta-0.1", "seed": "3", "path": path}]


def test_results_that_nobody_wrote_so_are_named_with_a_remedy(begun: Path) -> None:
    for name in ("results.json", "costs.json"):
        (begun / name).write_text("{}")
    with pytest.raises(RunError, match="it is not what `align study` wrote") as refused:
        study_report(begun)
    assert refused.value.faults[0].where == str(begun / "results.json")


def test_a_folder_that_is_no_study_is_none(tmp_path: Path) -> None:
    assert study_report(tmp_path) is None
