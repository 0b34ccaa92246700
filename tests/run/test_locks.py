"""Two at once: one run has one process, two runs do not know of each other."""

from __future__ import annotations

import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from forked import Stop
from paused import held
from run_fixtures import OFFLINE_ONLY, Align, MakeFolder, assert_refused, assert_same_runs, files_below, times_below

IN_TRAINING = Stop("step", 2, within="round 2 train")


@pytest.mark.long
def test_a_second_process_is_refused_while_the_first_is_at_work_and_the_first_ends_in_its_own_bytes(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    with held("train", "recipe.yaml", cwd=folder, at=IN_TRAINING) as first:
        run = folder / "run"
        before = files_below(run), times_below(run)
        for arguments in (["train", "recipe.yaml"], ["train", "recipe.yaml", "--restart"]):
            refused = align(*arguments, cwd=folder)
            assert_refused(refused)
            first_line, second_line = refused.err.splitlines()[-2:]
            named = rf"run: the run is in use by {re.escape(os.uname().nodename)} pid {first.pid} since 20\d\d-.*"
            assert re.fullmatch(named, first_line)
            assert second_line == "hint: wait for it, or end it first"
        shown = align("status", "run", cwd=folder)
        assert shown.code == 0, shown.err
        assert "run: 8 of 10 steps finished, next: round 2 train" in shown.out
        assert (files_below(run), times_below(run)) == before
    assert first.result.result().code == 0, first.result.result().err
    assert_same_runs(folder, finished)


@pytest.mark.long
def test_a_run_may_be_forked_and_its_policy_evaluated_while_it_is_at_work(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    shutil.copytree(finished / "run", folder / "run")
    evaluate = ("evaluate", "recipe.yaml", "--policy", "run/rounds/002/checkpoint", "-q")
    with held("train", "recipe.yaml", "rounds=3", cwd=folder, at=Stop("sampling", 1, within="round 3 generate")):
        found = align(*evaluate, cwd=folder)
        assert found.out == (finished / "run" / "rounds" / "002" / "evaluation.json").read_text()
        forked = align("train", "recipe.yaml", "--from", "run@1", "output_dir=next", cwd=folder)
        assert forked.code == 0, forked.err
    assert (folder / "next" / "rounds" / "002" / "checkpoint").is_dir()


@pytest.mark.long
def test_a_process_that_was_killed_holds_nothing(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with held("train", "recipe.yaml", cwd=folder, at=Stop("manifest")) as first:
        assert_refused(align("train", "recipe.yaml", cwd=folder))
        os.kill(first.pid, signal.SIGKILL)
        assert first.result.result().code == -signal.SIGKILL
        again = align("train", "recipe.yaml", cwd=folder, stop=Stop("ledger"))
    assert again.code == -signal.SIGKILL, again.err
    assert f"pid {first.pid} " not in (folder / "run" / ".lock").read_text()


@pytest.mark.long
def test_two_runs_side_by_side_end_in_the_bytes_of_each_alone(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    alone = make_folder(tmp_path / "alone", **OFFLINE_ONLY)
    assert align("train", "recipe.yaml", cwd=alone).code == 0
    first, second = make_folder(tmp_path / "first"), make_folder(tmp_path / "second", **OFFLINE_ONLY)
    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(align, "train", "recipe.yaml", cwd=folder) for folder in (first, second)]
        assert [result.result().code for result in results] == [0, 0]
    assert_same_runs(first, finished)
    assert_same_runs(second, alone)
