"""Whole studies by the command line: what is refused before anything runs; small ones that are killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Finished, run_align
from warm_children import MAIN

Align = Callable[..., Any]
MakeFolder = Callable[..., Path]

PROGRAM = [sys.executable, "-P", "-c", MAIN]
OVER = ("--over", "method.beta=0.1,0.3")
SAME = ("results.json", "table.csv", "runs.csv", "study.yaml", "frontier.svg", "differences.svg", "frontier.png")
SECONDS = 240.0


@pytest.fixture(scope="module")
def small(make_folder: MakeFolder) -> Callable[[Path], Path]:
    """`small(folder)` holds a recipe of one round, and what it reads."""

    def make(folder: Path) -> Path:
        return make_folder(folder, rounds=1, evaluate__num_prompts=16)

    return make


def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`align study` in a process of its own, in a session of its own, whose runs are processes below it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    return subprocess.Popen(
        [*PROGRAM, "study", "recipe.yaml", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def study(folder: Path, *arguments: str) -> Finished:
    return run_align("study", "recipe.yaml", *arguments, cwd=folder)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(small: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of two values and two seeds that nobody interrupted."""
    folder = small(tmp_path_factory.mktemp("whole") / "w")
    code, out, err = study(folder, *OVER, "--seeds", "2", "-o", "st", "--jobs", "2")
    assert code == 0, err
    assert "beta-0.3" in out
    return folder


@pytest.mark.long
def test_a_study_makes_a_warm_start_once_for_each_seed_and_the_runs_are_as_those_of_align_train(
    whole: Path, align: Align
) -> None:
    forked = sorted(path.parent.name for path in whole.glob("st/runs/*/*/lineage.json"))
    assert forked == ["seed-0", "seed-1"]
    done = align("train", "recipe.yaml", "method.beta=0.3", "seed=1", "output_dir=alone", cwd=whole)
    assert done.code == 0, done.err
    ours, theirs = whole / "st" / "runs" / "beta-0.3" / "seed-1" / "rounds", whole / "alone" / "rounds"
    names = sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    assert len(names) > 10
    differing = [name for name in names if (ours / name).read_bytes() != (theirs / name).read_bytes()]
    # A round that was taken over says in its manifest what it was made from: the other value.
    assert [str(name) for name in differing] in ([], ["000/manifest.json"])


@pytest.mark.long
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_a_study_that_was_ended_in_the_middle_goes_on_to_the_same_results(
    whole: Path, small: Callable[[Path], Path], tmp_path: Path, by: signal.Signals
) -> None:
    folder = small(tmp_path / "w")
    arguments = (*OVER, "--seeds", "2", "-o", "st", "--jobs", "2")
    process = begin(folder, *arguments)
    wait_for(lambda: bool(list(folder.glob("st/runs/*/*/rounds/001/manifest.json"))), process)
    process.send_signal(by)  # of SIGKILL its runs know nothing, and go on
    process.communicate(timeout=SECONDS)
    assert process.returncode == (-9 if by == signal.SIGKILL else 143)
    assert not (folder / "st" / "results.json").exists()
    code, _, err = study(folder, *arguments)
    assert code == 0, err
    assert [name for name in SAME if (folder / "st" / name).read_bytes() != (whole / "st" / name).read_bytes()] == []


@pytest.mark.long
def test_a_study_is_extended_and_what_was_finished_is_not_done_again(whole: Path) -> None:
    folder = whole
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("st/runs/*/*/ledger.jsonl")}
    assert len(finished) == 4
    code, out, err = study(folder, *OVER, "--seeds", "3", "-o", "st", "--jobs", "2", "--json")
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    results = json.loads(out)
    assert results["seeds"] == [0, 1, 2]
    assert [one["figures"]["win_rate"]["num_seeds"] for one in results["combinations"]] == [3, 3]
    code, out, err = study(folder, "--over", "method.beta=0.1,0.3", "--seeds", "2", "-o", "st", "--json")
    assert code == 0, err
    assert "not in these tables, as they were not asked for: beta-0.1/seed-2, beta-0.3/seed-2" in err
    assert json.loads(out)["seeds"] == [0, 1]
    assert (folder / "st" / "differences.svg").exists()
    code, _, err = study(folder, *OVER, "--seeds", "1", "-o", "st")
    assert code == 0, err
    assert not list((folder / "st").glob("differences.*")), "a picture of the study as it was before"
    assert (folder / "st" / "frontier.svg").exists()
    code, _, err = study(folder, *OVER, "--seeds", "1", "-o", "st", "--no-pictures")
    assert code == 0, err
    assert not list((folder / "st").glob("*.svg"))


@pytest.mark.long
def test_a_run_that_fails_holds_no_other_up_and_is_told(small: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = small(tmp_path / "w")
    # A guard that any KL sets off stops one value's run.
    over = ("--over", "guards.kl={above: 50.0, action: warn},{above: 1.0e-9, action: stop}")
    code, out, err = study(folder, *over, "--seeds", "1", "-o", "st", "--jobs", "1", "--json", "rounds=2")
    assert code == 2, err
    results = json.loads(out)
    assert [len(one["seeds"]) for one in results["combinations"]] == [1, 0]
    (missing,) = results["missing"]
    assert "guards.kl" in missing["why"]
    assert "1 run of 2 did not finish" in err


def refused(folder: Path, align: Align, *arguments: str) -> str:
    done = align("study", "recipe.yaml", *arguments, cwd=folder)
    assert done.code == 2, done.err
    assert done.out == ""
    return str(done.err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "st", "--jobs", "0"), "--jobs is 0; it must be at least 1"),
        (("-o", "st", "--seeds", "1,1"), "seed 1 is named twice"),
        (("-o", "st", "--over", "method.bta=1"), "did you mean method.beta?"),
        (("-o", "st", "--over", "rounds=1", "--over", "rounds=2"), "two --over of rounds"),
        (("-o", "recipe.yaml"), "this is a file"),
        (("-o", "."), "files that are no study"),
        ((), "needs -o DIR"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_is_written(
    small: Callable[[Path], Path], tmp_path: Path, align: Align, arguments: tuple[str, ...], said: str
) -> None:
    folder = small(tmp_path / "w")
    assert said in refused(folder, align, *arguments)
    assert not (folder / "st").exists()


def begun(folder: Path, **changes: Any) -> None:
    """What a study has written when it begins."""
    described = {"recipe": "recipe.yaml", "overrides": [], "over": {"method.beta": ["0.1"]}, "seeds": [0]}
    (folder / "st").mkdir()
    (folder / "st" / "study.yaml").write_text(yaml.safe_dump({**described, "for_tuning": False, **changes}))


def test_a_folder_of_another_study_is_refused_with_what_differs(
    small: Callable[[Path], Path], tmp_path: Path, align: Align
) -> None:
    folder = small(tmp_path / "w")
    begun(folder)
    said = refused(folder, align, "-o", "st", "--over", "rounds=1,2")
    assert "it goes over method.beta, and not over rounds" in said
    said = refused(folder, align, "-o", "st", *OVER, "--tune")
    assert "a study that is not for tuning" in said


def test_a_folder_whose_runs_had_other_settings_is_refused_with_the_keys(
    finished: Path, small: Callable[[Path], Path], tmp_path: Path, align: Align
) -> None:
    folder = small(tmp_path / "w")
    begun(folder)
    shutil.copytree(finished / "run", folder / "st" / "runs" / "beta-0.1" / "seed-0")
    said = refused(folder, align, "-o", "st", "--over", "method.beta=0.1", "train.learning_rate=0.1")
    assert "this folder holds another study" in said
    assert "train.learning_rate was 0.0005 and is now 0.1" in said


def test_a_second_process_on_a_study_is_refused(small: Callable[[Path], Path], tmp_path: Path, align: Align) -> None:
    from align_cli.study.folder import StudyFolder

    folder = small(tmp_path / "w")
    with StudyFolder(folder / "st").locked():
        assert "st: the study is in use by" in refused(folder, align, "-o", "st", *OVER)


@pytest.fixture
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    yield


def test_without_matplotlib_it_says_what_to_install_and_that_pictures_can_be_left_out(
    without_matplotlib: None,
) -> None:
    from align_cli.errors import AlignError
    from align_cli.study.pictures import check_can_draw

    with pytest.raises(AlignError, match=r"pip install 'align-cli\[study\]', or leave pictures out with --no-pictures"):
        check_can_draw()
