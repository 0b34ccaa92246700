"""Rounds that are sampled ahead: by servers while the round before trains, or in this process and before that."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ended import all_gone
from forked import Stop
from in_process_runs import train
from paused import PATIENCE_SECONDS, held
from run_fixtures import NO_EVALUATION, Align, MakeFolder, assert_same_runs, read_rows
from text_server import TextServer

from align_cli.run.ahead import AheadRunner

TEXT_SERVER = Path(__file__).parent.parent / "text_server.py"
AheadFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def ahead_folder(make_folder: MakeFolder) -> AheadFolder:
    """`ahead_folder(path, base_urls=[...])`: the small recipe, each round sampled ahead; by servers where there are."""

    def make(folder: Path, changes: dict[str, Any] | None = None, **server: Any) -> Path:
        served = {"generate__engine": "server", "generate__server": server} if server else {}
        return make_folder(folder, generate__rounds_ahead=1, **NO_EVALUATION, **served, **(changes or {}))

    return make


@pytest.fixture
def server(tiny_policy_folder: Path) -> Iterator[TextServer]:
    """A server that loads whatever weights it is told to, and whose answers depend on nothing but the request."""
    with TextServer(tiny_policy_folder, reloads=True) as made:
        yield made


def rows_of(folder: Path, round_number: int, name: str) -> list[dict[str, Any]]:
    return read_rows(folder / "run" / "rounds" / f"{round_number:03d}" / name)


def test_each_round_samples_the_policy_that_the_round_before_starts_from_and_its_pairs_say_so(
    ahead_folder: AheadFolder, align: Align, tmp_path: Path
) -> None:
    folder = ahead_folder(tmp_path)
    done = align("train", "recipe.yaml", "rounds=3", cwd=folder)
    assert done.code == 0, done.err
    states = [
        folder / "run" / "rounds" / f"{number:03d}" / "checkpoint" / "training_state.json" for number in (1, 2, 3)
    ]
    starts = [json.loads(state.read_text())["parent"] for state in states]
    sampled = [{row["policy"] for row in rows_of(folder, number, "completions.jsonl")} for number in (1, 2, 3)]
    assert sampled == [{starts[0]}, {starts[0]}, {starts[1]}]
    behind = [
        {row.get("rounds_behind") for row in rows_of(folder, number, "preferences.jsonl")} for number in (1, 2, 3)
    ]
    assert behind == [{None}, {1}, {1}]


def test_pairs_of_an_older_policy_are_weighed_from_the_first_step_on(
    ahead_folder: AheadFolder, align: Align, tmp_path: Path
) -> None:
    folder = ahead_folder(tmp_path)
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    first, second = (rows_of(folder, number, "training.jsonl")[0] for number in (1, 2))
    assert first["dpr/importance_weight"] == pytest.approx(1.0, abs=1e-4)
    assert abs(second["dpr/importance_weight"] - 1.0) > 1e-3


@pytest.mark.long
def test_a_run_that_is_killed_between_the_two_ends_in_the_same_bytes_and_so_does_one_with_more_rounds_later(
    ahead_folder: AheadFolder, align: Align, tmp_path: Path
) -> None:
    once = {"train__schedule": "round", "checkpoints__keep": 1}
    whole, killed = (ahead_folder(tmp_path / name, once) for name in ("whole", "killed"))
    assert align("train", "recipe.yaml", "rounds=3", cwd=whole).code == 0
    stops = [Stop("sampling", 1, within="round 2 generate"), Stop("manifest", 1, within="round 2 generate"),
             Stop("step", 2, within="round 1 train")]  # fmt: skip
    for stop in stops:
        assert align("train", "recipe.yaml", cwd=killed, stop=stop).code == -signal.SIGKILL
    for rounds in ("rounds=2", "rounds=3"):
        done = align("train", "recipe.yaml", rounds, cwd=killed)
        assert done.code == 0, done.err
    ours, theirs = (rows_of(one, 3, "training.jsonl") for one in (whole, killed))
    assert ours == theirs
    for name in ("completions.jsonl", "preferences.jsonl"):
        assert rows_of(whole, 3, name) == rows_of(killed, 3, name)


@pytest.mark.long
def test_a_chain_of_commands_makes_the_round_that_samples_the_policy(
    ahead_folder: AheadFolder, align: Align, tmp_path: Path
) -> None:
    folder = ahead_folder(tmp_path, {"rounds": 3})
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    made = align("generate", "recipe.yaml", "--policy", "run/rounds/001/checkpoint", cwd=folder)
    assert made.code == 0, made.err
    assert made.out == (folder / "run" / "rounds" / "003" / "completions.jsonl").read_text()


@pytest.mark.long
def test_servers_sample_while_the_round_before_trains_to_the_bytes_of_one_after_the_other(
    ahead_folder: AheadFolder, server: TextServer, align: Align, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ahead_folder(tmp_path / "beside", base_urls=[server.url])
    with held("train", "recipe.yaml", cwd=folder, at=Stop("step", 1, within="round 1 train")) as at_work:
        until_asked_for_another_round(server, folder)
        assert not (folder / "run" / "rounds" / "001" / "training.jsonl").exists()
        status = align("status", "run", cwd=folder)
    assert at_work.result.result().code == 0, at_work.result.result().err
    assert "round 1 train: 0 of" in status.out
    assert "round 2 generate: " in status.out
    alone = ahead_folder(tmp_path / "alone", base_urls=[server.url])
    monkeypatch.chdir(alone)
    monkeypatch.setattr(AheadRunner, "takes", lambda *_: False)
    train()
    assert_same_runs(folder, alone)


def until_asked_for_another_round(server: TextServer, folder: Path) -> None:
    """Wait until the server has been asked about a prompt that is none of the first round's."""
    first = [row["prompt_ids"] for row in rows_of(folder, 1, "completions.jsonl")]
    until(lambda: any(body["prompt"] not in first for body in server.asked))


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.long
def test_no_process_outlives_a_run_that_is_ended_and_it_goes_on_to_the_same_bytes(
    ahead_folder: AheadFolder, align: Align, tmp_path: Path
) -> None:
    command = f"{sys.executable} {TEXT_SERVER} {{model}} --port {{port}} --child --pids {tmp_path}/pids --seconds 0.1"
    keys = {"command": command, "concurrency": 1}
    whole, ended = ahead_folder(tmp_path / "whole", **keys), ahead_folder(tmp_path / "ended", **keys)
    done = align("train", "recipe.yaml", cwd=whole)
    assert done.code == 0, done.err
    assert all_gone(pids_in(tmp_path / "pids"), 1.0)
    for sign, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        assert code_of_ended_by(sign, ended, tmp_path / "pids") == code
    done = align("train", "recipe.yaml", cwd=ended)
    assert done.code == 0, done.err
    assert_same_runs(ended, whole)


def code_of_ended_by(sign: signal.Signals, folder: Path, pids: Path) -> int:
    """Of a run that is sent a signal while it trains a round and the next is sampled; nothing that it began is left."""
    kept = folder / "run" / "work" / "002-generate" / "policy-samples.jsonl"
    known = max(lines_in(kept), 1)
    with held("train", "recipe.yaml", cwd=folder, at=Stop("step", 2, within="round 1 train")) as at_work:
        until(lambda: lines_in(kept) > known)
        children = [one.pid for one in psutil.Process(at_work.pid).children()]
        os.kill(at_work.pid, sign)
    code = at_work.result.result().code
    assert all_gone([*children, *pids_in(pids)], 20.0)
    assert kept.is_file()
    return code


def lines_in(path: Path) -> int:
    """How many whole lines a file has; none where it is not there yet."""
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def pids_in(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().splitlines()]


@pytest.mark.long
def test_where_servers_fail_the_training_beside_ends_too_and_both_go_on_from_there(
    ahead_folder: AheadFolder, tiny_policy_folder: Path, align: Align, tmp_path: Path
) -> None:
    with TextServer(tiny_policy_folder, reloads=True) as server:
        folder = ahead_folder(tmp_path, base_urls=[server.url])
        at = Stop("step", 1, within="round 1 train")
        with held("train", "recipe.yaml", cwd=folder, at=at) as at_work:
            server.faults = {0: "400 it went wrong"}
            (sampling,) = psutil.Process(at_work.pid).children()
            until(lambda: all_gone([sampling.pid], 1.0))
        failed = at_work.result.result()
        assert failed.code == 2
        assert "it went wrong" in failed.err
        assert not (folder / "run" / "rounds" / "001" / "training.jsonl").exists()
        server.faults = {}
        done = align("train", "recipe.yaml", cwd=folder)
        assert done.code == 0, done.err
