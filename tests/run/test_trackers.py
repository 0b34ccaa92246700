"""`train.report_to`: one run over all rounds in each tracker, kept in the run's folder, where it is nobody's artifact.

With the real libraries, offline; those that are not installed are skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forked import Stop
from in_process_runs import train
from read_trackers import Kept, kept
from run_fixtures import Align, MakeFolder, files_below, read_rows
from sweeps import swept
from text_server import TextServer

from align_cli.errors import RecipeError, RunError
from align_cli.recipe.sections.train import TRACKERS
from align_cli.run.folder import RunFolder
from align_cli.run.tracked import name_of
from align_cli.tracking.told import Trackers

SMALL: dict[str, Any] = {
    "rounds": 2,
    "train__report_to": "tensorboard",
    "method__sources": {"offline": {"mixing": 1.0}},
    "data__prompts": None,
    "generate": None,
}
VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "TRACKIO_DIR", "TRACKIO_SPACE_ID", "WANDB_PROJECT")


@pytest.fixture
def folder(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a recipe that reports."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    folder = make_folder(tmp_path / "work", **SMALL)
    monkeypatch.chdir(folder)
    return folder


def need(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


def read_back(name: str, folder: Path) -> Kept:
    """What a tracker has of a run."""
    script = Path(__file__).with_name("read_trackers.py")
    environment = {**os.environ, "TRACKIO_DIR": str(folder.resolve() / "trackio")}
    done = subprocess.run([sys.executable, script, name, folder], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    steps, kl, *rest = json.loads(done.stdout.splitlines()[-1])
    return Kept(steps, [tuple(one) for one in kl], *rest)


def expected_kl(run: Path, rounds: int = 2) -> list[tuple[int, float]]:
    """The evaluations' own figures, each at the last step of its round."""
    found = [json.loads((run / f"rounds/00{number}/evaluation.json").read_text()) for number in range(rounds + 1)]
    return [(3 * one["round"], pytest.approx(one["kl"]["mean"], rel=1e-6, abs=1e-9)) for one in found]


@pytest.mark.long
@pytest.mark.parametrize("name", swept(TRACKERS, "wandb"))
def test_all_rounds_are_one_run_with_evaluations_samples_and_the_recipe(folder: Path, align: Align, name: str) -> None:
    need(name)
    done = align("train", "recipe.yaml", f"train.report_to={name}", cwd=folder)
    assert done.code == 0, done.err
    found = read_back(name, folder / "run/tracking")
    assert found.steps == [1, 2, 3, 4, 5, 6]
    assert found.kl == expected_kl(folder / "run")
    assert found.samples == 3
    assert found.config == "2"
    assert name not in done.out + done.err


@pytest.mark.long
@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_that_was_killed_goes_on_as_the_same_run_without_a_step_twice(
    folder: Path, align: Align, name: str
) -> None:
    need(name)
    arguments = ("train", "recipe.yaml", f"train.report_to={name}", "checkpoints.every_steps=1")
    for stop in (Stop("step", 2), Stop("step", 3), Stop("after manifest", 2)):
        assert align(*arguments, cwd=folder, stop=stop).code != 0
    done = align(*arguments, cwd=folder)
    assert done.code == 0, done.err
    assert align(*arguments, "rounds=3", cwd=folder).code == 0
    found = read_back(name, folder / "run/tracking")
    assert found.steps == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found.kl == expected_kl(folder / "run", 3)
    assert found.samples == 4
    assert found.config == ("3" if name in ("wandb", "trackio") else "2")  # the others are told a recipe once


@pytest.mark.long
def test_each_step_in_a_process_of_its_own_is_still_one_run(folder: Path, align: Align) -> None:
    need("tensorboard")
    need("mlflow")
    settings = ("rounds=1", "train.report_to=[tensorboard, mlflow]", "launch.isolate=true")
    done = align("train", "recipe.yaml", *settings, cwd=folder)
    assert done.code == 0, done.err
    for name in ("tensorboard", "mlflow"):
        assert read_back(name, folder / "run/tracking").steps == [1, 2, 3]


@pytest.mark.long
def test_rounds_that_servers_sample_ahead_are_still_one_run(
    make_folder: MakeFolder, tiny_policy_folder: Path, align: Align, tmp_path: Path
) -> None:
    need("tensorboard")
    with TextServer(tiny_policy_folder, reloads=True) as server:
        served = {"generate__engine": "server", "generate__server": {"base_urls": [server.url]}}
        folder = make_folder(tmp_path, generate__rounds_ahead=1, train__report_to="tensorboard", **served)
        for stop in (Stop("step", 2, within="round 1 train"), Stop("step", 2, within="round 2 train"), None):
            done = align("train", "recipe.yaml", cwd=folder, stop=stop)
    assert done.code == 0, done.err
    found = read_back("tensorboard", folder / "run/tracking")
    assert found.steps == [1, 2, 3, 4, 5, 6]
    assert found.kl == expected_kl(folder / "run")


@pytest.mark.long
def test_what_is_told_changes_no_artifact(folder: Path, align: Align) -> None:
    names = [name for name in TRACKERS if importlib.util.find_spec(name) is not None]
    quiet = align("train", "recipe.yaml", "train.report_to=none", "output_dir=quiet", cwd=folder)
    told = align("train", "recipe.yaml", f"train.report_to=[{', '.join(names)}]", cwd=folder)
    assert (quiet.code, told.code) == (0, 0), told.err
    assert files_below(folder / "run/rounds") == files_below(folder / "quiet/rounds")
    assert not (folder / "quiet/tracking").exists()


@pytest.mark.long
def test_a_tracker_that_is_named_later_is_told_what_it_missed(folder: Path) -> None:
    need("tensorboard")
    train("train.report_to=none")
    train("rounds=3", "train.logging_dir=elsewhere", "train.run_name=../second")
    found = kept("tensorboard", folder / "elsewhere")
    assert found.steps == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found.kl == expected_kl(folder / "run", 3)
    assert [path.name[:7] for path in (folder / "elsewhere/tensorboard").iterdir()] == ["-second"]


@pytest.mark.long
def test_a_point_that_a_kill_cut_off_is_written_anew(folder: Path) -> None:
    need("tensorboard")
    train("rounds=1")
    (events,) = folder.glob("run/tracking/tensorboard/*/events*")
    events.write_bytes(events.read_bytes()[:-600])  # amid the figures of the round's end
    train()
    found = kept("tensorboard", folder / "run/tracking")
    assert found.steps == [1, 2, 3, 4, 5, 6]
    assert found.kl == expected_kl(folder / "run")


def test_a_tracker_that_fails_is_named_once_and_training_goes_on(folder: Path) -> None:
    need("tensorboard")
    Path("file").mkdir()
    Path("file/tensorboard").write_text("in the way")
    said = train("rounds=1", "train.logging_dir=file")
    (complaint,) = [line for line in said if "report_to" in line]
    assert complaint.startswith("train.report_to: tensorboard failed and is told nothing more by this process: ")
    assert len(read_rows(folder / "run/rounds/001/training.jsonl")) == 3


@pytest.mark.long
def test_a_tracker_that_fails_later_leaves_the_others_at_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("tensorboard")
    from align_cli.tracking.on_tensorboard import TensorBoard

    tell = TensorBoard.tell

    def failing(tracker: TensorBoard, point: Any) -> None:
        if point.step == 4:
            raise ConnectionError("the server is gone\nand more")
        tell(tracker, point)

    monkeypatch.setattr(TensorBoard, "tell", failing)
    said = train()
    (complaint,) = [line for line in said if "report_to" in line]
    assert "the server is gone. Training goes on" in complaint
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    train("rounds=3")
    assert kept("tensorboard", folder / "run/tracking").steps == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_tracker_that_is_not_installed_is_told_before_anything_begins(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RecipeError) as refused:
        train("train.report_to=[wandb, trackio]")
    (fault,) = refused.value.faults
    assert fault.what == "train.report_to names wandb and trackio, which are not installed"
    assert fault.hint == "pip install 'align-cli[wandb,trackio]', or change train.report_to"
    assert not (folder / "run").exists()


@pytest.mark.long
def test_a_fork_is_a_run_of_its_own_and_restart_begins_a_new_one(folder: Path) -> None:
    need("tensorboard")
    from align_cli.run.fork import parse_origin

    train()
    identity = folder / "run/tracking/run.json"
    before = identity.read_text()
    train("output_dir=fork", origin=parse_origin("run@1"))
    assert kept("tensorboard", folder / "fork/tracking").steps == [1, 2, 3, 4, 5, 6]
    assert (folder / "fork/tracking/run.json").read_text() != before
    train(restart=True)
    assert identity.read_text() != before
    assert kept("tensorboard", folder / "run/tracking").steps == [1, 2, 3, 4, 5, 6]


def test_runs_of_a_study_are_told_apart_by_their_names() -> None:
    assert name_of(Path("/runs/quickstart")) == "quickstart"
    assert name_of(Path("/studies/beta/runs/beta=0.2/seed-3")) == "beta=0.2/seed-3"


def test_a_folder_that_holds_reports_alone_can_be_run_in(tmp_path: Path) -> None:
    (tmp_path / "alone/tracking").mkdir(parents=True)
    RunFolder(tmp_path / "alone").check_usable()
    (tmp_path / "alone/letter.txt").touch()
    with pytest.raises(RunError, match=r"no run: letter\.txt"):
        RunFolder(tmp_path / "alone").check_usable()


def test_a_link_or_a_file_in_the_place_of_the_reports_is_refused_at_the_start(folder: Path) -> None:
    need("tensorboard")
    (folder / "run").mkdir()
    (folder / "elsewhere").mkdir()
    place = folder / "run/tracking"
    for put in (lambda: place.symlink_to(folder / "elsewhere"), lambda: place.write_text("")):
        put()
        with pytest.raises(RunError, match="tracking"):
            train()
        place.unlink()


def test_what_cannot_be_begun_is_not_tried_again(folder: Path) -> None:
    said: list[str] = []

    def no_run() -> Any:
        raise OSError("no room")

    trackers = Trackers(["mlflow"], no_run, said.append)
    from align_cli.tracking.points import step_point

    trackers.tell(step_point(1, 1, {"loss": 1.0}))
    trackers.tell(step_point(1, 2, {"loss": 1.0}))
    trackers.end(is_finished=True)
    assert len(said) == 1
