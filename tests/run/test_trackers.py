"""`train.report_to`: trackers write into the run's folder, where what they write is nobody's artifact.

The tracker is transformers' own for TensorBoard, on a writer that puts JSON Lines where TensorBoard's puts its events.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process_runs import killed_at_step, train
from run_fixtures import MakeFolder, files_below, read_rows

from align_cli.errors import RunError
from align_cli.run.folder import RunFolder

WRITER = '''"""A stand-in for tensorboardX, as far as transformers uses it."""

import json
import os
import time


class SummaryWriter:
    def __init__(self, log_dir):
        os.makedirs(log_dir, exist_ok=True)
        self.stream = open(os.path.join(log_dir, f"events.{time.time_ns()}.jsonl"), "w")

    def add_text(self, name, text, step=None):
        pass

    def add_scalar(self, name, value, step):
        self.stream.write(json.dumps({"name": name, "value": value, "step": step}) + "\\n")

    def flush(self):
        self.stream.flush()

    def close(self):
        self.stream.close()
'''
SMALL = {
    "rounds": 2,
    "train__report_to": "tensorboard",
    "method__sources": {"offline": {"mixing": 1.0}},
    "data__prompts": None,
    "generate": None,
}


@pytest.fixture
def folder(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a recipe that reports; the writer can be imported."""
    if importlib.util.find_spec("tensorboard") is not None:
        pytest.skip("transformers prefers tensorboard, whose events are no JSON Lines")
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "tensorboardX.py").write_text(WRITER)
    monkeypatch.syspath_prepend(tmp_path / "library")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    folder = make_folder(tmp_path / "work", **SMALL)
    monkeypatch.chdir(folder)
    yield folder


def losses(place: Path) -> list[tuple[int, float]]:
    """What the tracker was told of the loss: (step, value), in the order of its files."""
    rows = [row for path in sorted(place.rglob("events.*.jsonl")) for row in read_rows(path)]
    return [(row["step"], row["value"]) for row in rows if row["name"] == "train/loss"]


def test_every_step_is_reported_into_the_runs_folder(folder: Path) -> None:
    train()
    steps = [row["step"] for number in (1, 2) for row in read_rows(folder / f"run/rounds/00{number}/training.jsonl")]
    assert [step for step, _ in losses(folder / "run" / "logs")] == steps == [1, 2, 3, 4, 5, 6]


def test_what_was_reported_changes_nothing_in_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train("train.report_to=none", "output_dir=quiet")
    train()
    assert files_below(folder / "run" / "rounds") == files_below(folder / "quiet" / "rounds")
    assert not (folder / "quiet" / "logs").exists()


def test_a_run_that_was_killed_goes_on_beside_what_it_had_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at_step(monkeypatch, 12 + 5):  # of the warm start's twelve and the rounds' six
        train()
    before = files_below(folder / "run" / "logs")
    assert before
    train()
    after = files_below(folder / "run" / "logs")
    assert {name: after[name] for name in before} == before
    assert [step for step, _ in losses(folder / "run" / "logs")][-3:] == [4, 5, 6]
    assert train() == ["run is finished: 2 rounds; raise rounds= to go on"]


def test_trackers_may_change_under_a_run(folder: Path) -> None:
    train("train.report_to=none")
    said = train("rounds=3", "train.logging_dir=elsewhere", "train.run_name=second")
    assert said[0] == "run: going on after round 2 evaluate, with round 3 train"
    assert [step for step, _ in losses(folder / "elsewhere")] == [7, 8, 9]
    assert not (folder / "run" / "logs").exists()


def test_a_fork_leaves_the_reports_behind_and_restart_removes_them(folder: Path) -> None:
    from align_cli.run.fork import parse_origin

    train()
    train("output_dir=fork", "train.report_to=none", origin=parse_origin("run@1"))
    assert not (folder / "fork" / "logs").exists()
    before = set(files_below(folder / "run" / "logs"))
    train(restart=True)
    after = set(files_below(folder / "run" / "logs"))
    assert after
    assert not after & before


def test_a_folder_that_holds_reports_alone_can_be_run_in(folder: Path) -> None:
    train("rounds=1")
    (folder / "alone").mkdir()
    (folder / "run" / "logs").rename(folder / "alone" / "logs")
    RunFolder("alone").check_usable()
    (folder / "alone" / "letter.txt").touch()
    with pytest.raises(RunError, match=r"no run: letter\.txt"):
        RunFolder("alone").check_usable()


def test_a_link_or_a_file_in_the_place_of_the_reports_is_refused_at_the_start(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "elsewhere").mkdir()
    logs = folder / "run" / "logs"
    for put in (lambda: logs.symlink_to(folder / "elsewhere"), lambda: logs.write_text("")):
        put()
        with pytest.raises(RunError, match="logs"):
            train()
        logs.unlink()
