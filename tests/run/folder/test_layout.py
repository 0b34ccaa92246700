"""Nothing in a run's folder is followed out of it, and nothing in it is waited for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from run_fixtures import Align, assert_refused, files_below

from align_cli.errors import RunError
from align_cli.run.folder import RunFolder
from align_cli.run.folder.layout import Layout

MINE = "precious text\n"
TOP = ("recipe.yaml", "run.json", "ledger.jsonl", ".lock")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file of somebody's, outside of any run."""
    path = tmp_path / "mine.txt"
    path.write_text(MINE)
    return path


def put_link(place: Path, target: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(target)


@pytest.mark.parametrize("name", [*TOP, "lineage.json"])
def test_a_link_in_the_place_of_a_file_is_refused_and_its_target_stays(
    name: str, finished_copy: Path, align: Align, mine: Path
) -> None:
    put_link(finished_copy / "run" / name, mine)
    refused = align("train", "recipe.yaml", "rounds=3", cwd=finished_copy)
    assert_refused(refused)
    assert f"run/{name}: " in refused.err
    assert "is a link" in refused.err
    assert mine.read_text() == MINE
    shown = align("status", "run", cwd=finished_copy)
    assert shown.code == (0 if name == ".lock" else 2)
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("name", [*TOP, "lineage.json"])
@pytest.mark.parametrize("command", [("train", "recipe.yaml", "rounds=3"), ("status", "run")], ids=["train", "status"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(
    name: str, command: tuple[str, ...], finished_copy: Path, align: Align
) -> None:
    (finished_copy / "run" / name).unlink(missing_ok=True)
    os.mkfifo(finished_copy / "run" / name)
    done = align(*command, cwd=finished_copy)
    if command[0] == "status" and name == ".lock":  # to look needs no lock
        assert done.code == 0
        return
    assert_refused(done)
    assert f"run/{name}: " in done.err
    assert "is a pipe or a device" in done.err


def test_links_in_the_place_of_what_is_being_written_are_removed_and_not_written_through(
    finished_copy: Path, three_rounds: Path, align: Align, mine: Path
) -> None:
    run = finished_copy / "run"
    (run / "rounds" / "003").mkdir()
    for name in ("recipe.yaml", "rounds/003/completions.jsonl", "rounds/003/manifest.json", "rounds/003/checkpoint"):
        (run / f"{name}.partial").symlink_to(mine)
    done = align("train", "recipe.yaml", "rounds=3", cwd=finished_copy)
    assert done.code == 0, done.err
    assert mine.read_text() == MINE
    assert files_below(run / "rounds") == files_below(three_rounds / "run" / "rounds")


@pytest.mark.parametrize("name", ["preferences.jsonl", "checkpoint", "evaluation.json", "manifest.json"])
def test_a_link_in_the_place_of_an_artifact_to_come_is_named(
    name: str, finished_copy: Path, align: Align, mine: Path
) -> None:
    (finished_copy / "run" / "rounds" / "003").mkdir()
    (finished_copy / "run" / "rounds" / "003" / name).symlink_to(mine)
    refused = align("train", "recipe.yaml", "rounds=3", cwd=finished_copy)
    assert_refused(refused)
    assert f"run/rounds/003/{name}: this is a link" in refused.err
    assert mine.read_text() == MINE


@pytest.mark.parametrize("name", ["rounds", "rounds/002", "rounds/002/checkpoint", "rounds/002/samples.jsonl"])
def test_a_folder_that_is_a_link_is_not_entered(name: str, finished_copy: Path, align: Align, tmp_path: Path) -> None:
    place = finished_copy / "run" / name
    elsewhere = tmp_path / "elsewhere"
    shutil.move(place, elsewhere)
    place.symlink_to(elsewhere)
    before = elsewhere.read_bytes() if elsewhere.is_file() else files_below(elsewhere)
    refused = align("train", "recipe.yaml", "rounds=3", cwd=finished_copy)
    assert_refused(refused)
    assert f"run/{name}: this is a link; nothing in a run's folder is followed out of it" in refused.err
    assert (elsewhere.read_bytes() if elsewhere.is_file() else files_below(elsewhere)) == before


def test_the_runs_folder_itself_may_be_reached_by_a_link(finished_copy: Path, align: Align, tmp_path: Path) -> None:
    """Runs are large, and disks are elsewhere."""
    shutil.move(finished_copy / "run", tmp_path / "elsewhere")
    (finished_copy / "run").symlink_to(tmp_path / "elsewhere")
    done = align("train", "recipe.yaml", cwd=finished_copy)
    assert done.code == 0, done.err
    assert "run is finished" in done.err


def test_a_file_within_a_checkpoint_that_is_a_link_is_named(finished_copy: Path, align: Align, tmp_path: Path) -> None:
    weights = finished_copy / "run" / "rounds" / "002" / "checkpoint" / "model.safetensors"
    shutil.move(weights, tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    refused = align("train", "recipe.yaml", "rounds=3", cwd=finished_copy)
    assert_refused(refused)
    assert "run/rounds/002/checkpoint/model.safetensors: this is a link; a file was written here" in refused.err


def test_work_that_a_link_leads_to_is_not_taken_up(finished_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (finished_copy / "run" / "work").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="this is a link"):
        RunFolder(finished_copy / "run").remove_work_but([])
    assert (tmp_path / "elsewhere").is_dir()


def test_a_folder_where_a_file_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").mkdir()
    with pytest.raises(RunError, match="this is a folder, where a file should be"):
        Layout(tmp_path).file("recipe.yaml")
