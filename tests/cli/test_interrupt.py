"""Ctrl-C and SIGTERM: exit codes 130 and 143, one line of advice, and a run that goes on."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pytest
import typer
from forked import Stop
from killed_runs import VARIANTS, differing_files, make_run, train, work_done
from run_fixtures import NO_EVALUATION, Align, MakeFolder, assert_same_runs

from align_cli.cli.main import _commands
from align_cli.cli.output import Terminated, guarded
from align_cli.cli.train import _holds_recipe
from align_cli.recipe import load_recipe

ADVICE = "interrupted; `align train run/recipe.yaml` goes on where it stopped"
ENDS = {signal.SIGINT: (130, ADVICE), signal.SIGTERM: (143, ADVICE.replace("interrupted", "terminated"))}
WITHIN = {
    "round 0 sft": "warm-up step",
    "round 0 evaluate": "scoring",
    "round 1 generate": "sampling",
    "round 1 label": "scoring",
    "round 1 train": "step",
    "round 1 evaluate": "sampling",
}
"""Stages, and in the midst of what each is interrupted: its second batch or step."""


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
    resumed = align("train", "run/recipe.yaml", cwd=stopped)
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


@pytest.mark.long
@pytest.mark.parametrize(
    "signals",
    [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)],
    ids=["SIGTERM first", "SIGINT first"],
)
def test_a_run_interrupted_in_every_stage_says_so_each_time_and_goes_on_to_the_same_bytes(
    signals: tuple[signal.Signals, signal.Signals], tmp_path: Path
) -> None:
    variant = next(iter(VARIANTS))
    whole, stopped = (make_run(tmp_path / name, variant, rounds=1) for name in ("whole", "stopped"))
    assert train(whole).code == 0
    for number, (step, moment) in enumerate(WITHIN.items()):
        sent = signals[number % 2]
        interrupted = train(stopped, Stop(moment, 2, sent, within=step))
        code, advice = ENDS[sent]
        assert interrupted.code == code, interrupted.err
        assert interrupted.out == ""
        assert interrupted.err.splitlines()[-1] == advice
        assert interrupted.err.count(advice.partition(";")[0]) == 1
        assert "Traceback" not in interrupted.err
        assert [path.name for path in (stopped / "run").rglob("*.partial")] == []
    resumed = train(stopped)
    assert resumed.code == 0, resumed.err
    assert differing_files(stopped, whole) == []
    again = work_done(stopped) - work_done(whole)
    assert all(times == 1 for times in again.values())
    assert {line.partition(":")[0] for line in again} <= WITHIN.keys()


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_a_terminated_single_stage_does_not_promise_to_go_on(command: str, finished: Path, align: Align) -> None:
    policy = finished / "run" / "rounds" / "001" / "checkpoint"
    terminated = align(
        command, "recipe.yaml", "--policy", policy, "-q", cwd=finished, stop=Stop("sampling", 1, signal.SIGTERM)
    )
    assert terminated.code == 143, terminated.err
    assert terminated.out == ""
    assert terminated.err.splitlines()[-1] == "terminated"


@pytest.mark.parametrize(
    ("interrupt", "code", "word"), [(Terminated, 143, "terminated"), (KeyboardInterrupt, 130, "interrupted")]
)
def test_what_ends_align_before_its_command_begins_is_told_too(
    interrupt: type[BaseException], code: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Typer takes it for itself while it reads the command line."""

    def interrupted(*_: object, **__: object) -> None:
        raise interrupt

    monkeypatch.setattr(typer.core.TyperGroup, "make_context", interrupted)
    for name in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "argv", ["align", "status", "run"])
    with pytest.raises(SystemExit) as ended:
        guarded(_commands)()
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{word}\n"


@pytest.mark.long
def test_a_run_terminated_after_some_time_ends_with_words_or_before_it_begins(tmp_path: Path) -> None:
    variant = next(iter(VARIANTS))
    whole, stopped = (make_run(tmp_path / name, variant, rounds=1) for name in ("whole", "stopped"))
    assert train(whole).code == 0
    codes = []
    for tenths in range(1, 16):
        ended = train(stopped, Stop("time", 1, signal.SIGTERM, seconds=tenths / 10))
        codes.append(ended.code)
        assert "Traceback" not in ended.err
        assert ended.code != 143 or ended.err.splitlines()[-1].startswith("terminated")
    assert set(codes) <= {0, 143, -signal.SIGTERM}
    assert 143 in codes
    assert train(stopped).code == 0
    assert differing_files(stopped, whole) == []


def test_a_recipe_that_another_call_left_is_not_named_to_go_on_with(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    asked = load_recipe(finished / "run" / "recipe.yaml")
    assert _holds_recipe(finished / "run", asked)
    assert not _holds_recipe(finished / "run", asked.model_copy(update={"rounds": 3}))
    assert not _holds_recipe(finished / "nowhere", asked)
