"""`align status`: where a run stands, read from its folder alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from forked import Finished, Stop, run_align
from paused import held
from run_fixtures import Align, assert_refused, assert_same_runs, files_below, times_below
from terminal import terminal

from align_cli.run.at_work import AtWork
from align_cli.run.folder import RunFolder
from align_cli.run.folder.lock import Holder
from align_cli.run.plan import Step
from align_cli.run.status import RunStatus
from align_cli.stages.base import Done

MakeFolder = Callable[..., Path]


def test_a_finished_run_is_shown_with_its_rounds_and_its_stages(finished: Path, align: Align) -> None:
    files, times = files_below(finished), times_below(finished)
    shown = align("status", "run", cwd=finished)
    assert (shown.code, shown.err) == (0, "")
    lines = [line.strip() for line in shown.out.splitlines() if line.strip()]
    assert lines[0] == "run: 10 of 10 steps finished, next: none"
    headings = [
        "round",
        "win vs initial",
        "win vs previous",
        "reward",
        "KL",
        "length",
        "EOS",
        "distinct-2",
        "pair acc.",
    ]
    assert [heading for heading in headings if heading not in lines[1]] == []
    assert [line.split()[0] for line in lines[3:6]] == ["0", "1", "2"]
    assert lines[6].split()[:6] == ["round", "ties", "longer", "won", "margin", "agree:"]
    assert [line.split()[0] for line in lines[8:10]] == ["1", "2"]
    assert lines[10].split() == ["round", "stage", "time", "memory", "result"]
    assert all(re.search(r" \d+\.\d s +(\d+ MB|\d+\.\d GB)  ", line) for line in lines[12:])
    assert [line.split()[:2] for line in lines[12:]] == [
        ["0", "sft"],
        ["0", "evaluate"],
        *([str(number), stage] for number in (1, 2) for stage in ("generate", "label", "train", "evaluate")),
    ]
    assert (files_below(finished), times_below(finished)) == (files, times)


def test_json_holds_the_plan_what_is_finished_the_evaluations_and_the_ledger(finished: Path, align: Align) -> None:
    shown: Finished = align("status", "run", "--json", cwd=finished)
    assert (shown.code, shown.err) == (0, "")
    status = json.loads(shown.out)
    assert status["planned"] == status["finished"]
    assert status["planned"][0] == {"round": 0, "stage": "sft"}
    assert [evaluation["round"] for evaluation in status["evaluations"]] == [0, 1, 2]
    assert len(status["ledger"]) == 2 * len(status["planned"])
    assert [event["peak_memory_bytes"] > 10**7 for event in status["ledger"][1::2]] == [True] * 10
    now = ("state", "holder", "at_work", "seconds_left_in_step", "seconds_left")
    assert [status[name] for name in now] == ["finished", None, None, None, None]


def test_an_interrupted_run_is_shown_with_its_next_step(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    align("train", "recipe.yaml", cwd=folder, stop=Stop("manifest"))
    shown = align("status", "run", cwd=folder)
    assert shown.code == 0
    first, second, third = shown.out.splitlines()[:3]
    assert first == "run: 0 of 10 steps finished, next: round 0 sft"
    assert re.fullmatch(r"not running: \S+ pid \d+ since .* was killed in round 0 sft at \d+ of 12 steps", second)
    assert third == "go on with: align train run/recipe.yaml"
    align("train", "recipe.yaml", cwd=folder, stop=Stop("manifest", 2))
    assert align("status", "run", cwd=folder).out.splitlines()[0] == (
        "run: 1 of 10 steps finished, next: round 0 evaluate"
    )


def test_a_run_that_was_interrupted_says_where_and_how_to_go_on(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    align("train", "recipe.yaml", cwd=folder, stop=Stop("step", 2, signal.SIGINT, within="round 2 train"))
    _, state, go_on, *_ = align("status", "run", cwd=folder).out.splitlines()
    assert state == "not running: interrupted in round 2 train at 1 of 3 steps"
    from_elsewhere = align("status", folder / "run", cwd=tmp_path.parent).out.splitlines()[2]
    assert from_elsewhere == "go on with: `align train` with its recipe, in the folder where it was begun"
    _, *command = shlex.split(go_on.removeprefix("go on with: "))
    assert align(*command, cwd=folder).code == 0
    assert_same_runs(folder, finished)
    assert align("status", "run", cwd=folder).out.splitlines()[0] == "run: 10 of 10 steps finished, next: none"


def test_a_run_at_work_says_who_is_how_far_it_is_and_how_long_it_will_take(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    with held("train", "recipe.yaml", cwd=folder, at=Stop("step", 2, within="round 2 train")) as at_work:
        before = files_below(folder / "run"), times_below(folder / "run")
        shown = align("status", "run", cwd=folder).out.splitlines()
        status = json.loads(align("status", "run", "--json", cwd=folder).out)
        assert (files_below(folder / "run"), times_below(folder / "run")) == before
    assert re.fullmatch(rf"running: \S+ pid {at_work.pid} since .*, (\d+ MB|\d\.\d GB) in memory", shown[1])
    assert re.match(r"round 2 train: \d of 3 steps, ", shown[2])
    assert re.fullmatch(r"time left: \d+s", shown[3])
    assert (status["state"], status["holder"]["pid"], status["holder"]["lives"]) == ("running", at_work.pid, True)
    assert status["holder"]["memory_bytes"] > 10**7
    assert 0 <= status["seconds_left_in_step"] <= status["seconds_left"] < 120
    assert {name: status["at_work"][name] for name in ("round", "stage", "total")} == {
        "round": 2, "stage": "train", "total": 3,
    }  # fmt: skip


def test_a_run_that_a_guard_stopped_says_so(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    align("train", "recipe.yaml", "guards={kl: {above: 1.0e-9, action: stop}}", cwd=folder)
    lines = align("status", "run", cwd=folder).out.splitlines()
    assert lines[1].startswith("not running: stopped before round 2 generate: KL to the reference is")
    assert lines[2].startswith("hint: set guards.kl.action to warn")
    assert json.loads(align("status", "run", "--json", cwd=folder).out)["state"] == "stopped"


def test_of_a_run_of_another_machine_it_is_not_said_whether_it_is_at_work(finished_copy: Path, align: Align) -> None:
    assert align("train", "recipe.yaml", "rounds=3", cwd=finished_copy, stop=Stop("manifest")).code != 0
    lock = finished_copy / "run" / ".lock"
    lock.write_text(lock.read_text().replace(os.uname().nodename, "elsewhere"))
    line = align("status", "run", cwd=finished_copy).out.splitlines()[1]
    assert re.fullmatch(r"in use by elsewhere pid \d+ since .*, on another machine: only there .* it still is", line)


def test_what_a_lock_of_elsewhere_says_is_not_believed(finished_copy: Path, align: Align) -> None:
    align("train", "recipe.yaml", "rounds=3", cwd=finished_copy, stop=Stop("manifest"))
    lock = finished_copy / "run" / ".lock"
    holder, told, *_ = lock.read_text().splitlines()
    hostile = {**json.loads(told), "unit": "steps\n\x1b[31mred"}
    for text in (json.dumps(hostile), told.replace('"done":', '"done":-'), "[" * 3000, "\x1b[31mred"):
        lock.write_text(f"{holder}\n{text}\n")
        shown = align("status", "run", cwd=finished_copy)
        assert (shown.code, shown.err) == (0, "")
        assert "red" not in shown.out
        assert shown.out.splitlines()[1] == "not running: round 3 generate has not begun"


STAGES = ("generate", "label", "train", "evaluate")
PLAN = [Step(number, stage) for number in (1, 2, 3) for stage in STAGES]


def at_work_status(num_finished: int, at_work: AtWork | None = None, seconds: float = 10.0) -> RunStatus:
    """Of a run of three rounds of four stages, each of which took so many seconds."""
    ledger = [{"event": "finish", **step._asdict(), "seconds": seconds} for step in PLAN[:num_finished]]
    holder = Holder("here", 1, "2026-01-01 00:00:00")
    return RunStatus(PLAN, PLAN[:num_finished], [], ledger, None, [], "running", holder, at_work, None, True)


def training(done: int, per_second: float, seconds: float) -> AtWork:
    return AtWork(2, "train", done, 50, "steps", per_second, seconds, time=1000.0)


@pytest.mark.parametrize(
    ("num_finished", "at_work", "now", "in_step", "whole"),
    [
        (0, None, 1000, None, None),
        (3, None, 1000, None, None),  # no round has been evaluated
        (4, None, 1000, None, 80),
        (6, training(0, 0.0, 2), 1000, 8, 58),  # by the round before
        (6, training(10, 1.0, 2), 1000, 40, 90),  # by what it does now, which is slower
        (6, training(10, 1.0, 2), 1030, 10, 60),
        (6, training(10, 1.0, 2), 9999, 0, 50),  # never less than nothing
        (6, training(50, 5.0, 10), 1000, 0, 50),
        (6, training(60, 5.0, 10), 1000, 0, 50),
        (6, training(10, 1.0, 2), 500, 40, 90),  # a clock that was put back
    ],
)
def test_time_left_is_what_the_rounds_before_took_and_what_is_counted_now(
    num_finished: int, at_work: AtWork | None, now: float, in_step: float | None, whole: float | None
) -> None:
    status = at_work_status(num_finished, at_work)
    assert (status.seconds_left_in_step(now), status.seconds_left(now)) == (in_step, whole)


def test_two_stages_at_work_at_once_have_as_much_time_left_as_the_longer_one() -> None:
    sampling = AtWork(3, "generate", 10, 100, "completions", 1.0, 2, time=1000.0)
    planned = [*PLAN[:6], PLAN[8], PLAN[6], PLAN[7], *PLAN[9:]]
    both = replace(training(10, 1.0, 2), beside=sampling)
    status = replace(at_work_status(6, both), planned=planned)
    assert (status.seconds_left_in_step(1000), status.seconds_left(1000)) == (90, 90 + 10 + 3 * 10)


def test_time_left_knows_nothing_of_events_that_were_edited_by_hand() -> None:
    for seconds in (-1.0, float("nan"), float("inf"), 10**400):
        assert at_work_status(6, None, seconds).seconds_left(0) is None


@pytest.mark.parametrize("place", ["recipe.yaml", "."])
def test_a_place_without_a_run_is_refused(finished: Path, align: Align, place: str) -> None:
    refused = align("status", place, cwd=finished)
    assert_refused(refused)
    assert refused.err == f"{place}: there is no run in this folder\nhint: give a recipe's output_dir\n"


def test_a_run_that_is_not_there_is_answered_with_one_of_a_like_name(finished: Path, align: Align) -> None:
    refused = align("status", "rnu", cwd=finished)
    assert_refused(refused)
    assert refused.err == "rnu: there is no such folder\nhint: give a recipe's output_dir; did you mean run?\n"


def test_a_run_is_shown_from_anywhere_and_without_its_data(finished: Path, align: Align, tmp_path: Path) -> None:
    shown = align("status", finished / "run", cwd=tmp_path)
    assert shown.code == 0, shown.err
    assert "10 of 10 steps finished" in shown.out


def test_what_guards_saw_and_where_it_led_is_shown(finished_copy: Path, align: Align) -> None:
    manifests, step = RunFolder(finished_copy / "run").manifests, Step(2, "evaluate")
    record = manifests.finished(step) or {}
    seen = [{"guard": "kl", "action": "rollback", "message": "KL to the reference is 99 nats"}]
    manifests.finish(step, record["inputs"], sorted(record["outputs"]), Done({}, continues_from=1), seen)
    lines = align("status", "run", cwd=finished_copy).out.splitlines()
    assert "round 2: guard kl (rollback): KL to the reference is 99 nats" in lines
    assert "round 2: rolled back to the policy of round 1" in lines
    status = json.loads(align("status", "run", "--json", cwd=finished_copy).out)
    assert status["guards"] == [line for line in lines if line.startswith("round 2: ")]


@pytest.mark.long
def test_a_run_at_work_is_watched_until_it_is_over(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, rounds=1)
    with (
        held("train", "recipe.yaml", cwd=folder, at=Stop("step", 2, within="round 1 train")) as at_work,
        terminal("status", "run", "--watch", cwd=folder, columns=150) as watcher,
    ):
        shown = watcher.until("time left")
        assert f"pid {at_work.pid} since" in shown
        assert "round 1 train: " in shown
        assert "in memory" in shown
        watcher.until("time left")  # it is looked at again
        os.kill(at_work.pid, signal.SIGCONT)
        watcher.until("run: 6 of 6 steps finished, next: none")
        code, rest = watcher.end()
    assert code == 0
    assert "pair acc." in rest


@pytest.mark.long
def test_who_watches_without_a_terminal_is_told_a_line_now_and_then(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, rounds=1, guards={"kl": {"above": 1e-9, "action": "warn"}})
    with (
        held("train", "recipe.yaml", cwd=folder, at=Stop("step", 2, within="round 1 train")) as at_work,
        ThreadPoolExecutor(1) as threads,
    ):
        watching = threads.submit(run_align, "status", "run", "--watch", cwd=folder)
        time.sleep(3)
        os.kill(at_work.pid, signal.SIGKILL)
        done = watching.result()
    assert done.code == 0, done.err
    first, second, third, *_ = done.out.splitlines()
    assert re.match(r"run: \d of 6 steps finished, next: round 1 train; running: .* in memory; round 1 train: ", first)
    assert second == "run: 4 of 6 steps finished, next: round 1 train"
    assert re.match(r"not running: \S+ pid \d+ since .* was killed in round 1 train", third)


def test_a_run_that_is_not_at_work_is_shown_once(finished: Path, align: Align) -> None:
    assert align("status", "run", "--watch", cwd=finished) == align("status", "run", cwd=finished)
    assert_refused(align("status", "run", "--watch", "--json", cwd=finished))
