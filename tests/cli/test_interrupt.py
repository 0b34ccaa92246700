"""Ctrl-C: exit code 130, one line of advice, and a run that goes on."""

from __future__ import annotations

import signal
from pathlib import Path

from forked import Stop
from run_fixtures import NO_EVALUATION, Align, MakeFolder, assert_same_runs

ADVICE = "interrupted; `align train` with the same recipe goes on where it stopped"


def test_an_interrupted_run_says_so_and_goes_on_to_the_same_bytes(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    whole, stopped = (make_folder(tmp_path / name, rounds=1, **NO_EVALUATION) for name in ("whole", "stopped"))
    assert align("train", "recipe.yaml", cwd=whole).code == 0
    interrupted = align("train", "recipe.yaml", cwd=stopped, stop=Stop("step", 2, signal.SIGINT))
    assert interrupted.code == 130
    assert interrupted.out == ""
    assert interrupted.err.splitlines()[-1] == ADVICE
    assert "Traceback" not in interrupted.err
    resumed = align("train", "recipe.yaml", cwd=stopped)
    assert resumed.code == 0
    assert "run: going on after round 1 label, with round 1 train" in resumed.err.splitlines()
    assert_same_runs(stopped, whole)


def test_a_quiet_run_that_is_interrupted_says_so_too(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, **NO_EVALUATION)
    interrupted = align("train", "recipe.yaml", "-q", cwd=folder, stop=Stop("manifest", 1, signal.SIGINT))
    assert interrupted.code == 130
    assert ADVICE in interrupted.err.splitlines()


def test_an_interrupted_single_stage_leaves_no_checkpoint(finished_copy: Path, align: Align) -> None:
    pairs = "run/rounds/001/preferences.jsonl"
    interrupted = align(
        "train", "recipe.yaml", "--preferences", pairs, "-o", "next", "-q", cwd=finished_copy,
        stop=Stop("step", 2, signal.SIGINT),
    )  # fmt: skip
    assert interrupted.code == 130
    assert not (finished_copy / "next").exists()
    assert not (finished_copy / "next.partial").exists()


def test_an_interrupted_single_stage_does_not_promise_to_go_on(finished: Path, align: Align) -> None:
    interrupted = align(
        "train", "recipe.yaml", "--preferences", "run/rounds/001/preferences.jsonl", "-o", "next", "-q", cwd=finished,
        stop=Stop("step", 1, signal.SIGINT),
    )  # fmt: skip
    assert interrupted.err.splitlines()[-1].startswith("interrupted")
    assert ADVICE not in interrupted.err
