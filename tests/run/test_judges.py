"""Judges at work in a run and in a chain: what was answered is asked for never again, and its cost is exact."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import Stop
from judge_server import TEMPLATE, JudgeServer, longer_wins
from run_fixtures import NO_EVALUATION, Align, MakeFolder, assert_refused, assert_same_runs, read_rows
from warm_children import MAIN

JUDGED: dict[str, Any] = {
    **NO_EVALUATION,
    "rounds": 1,
    "generate__prompts_per_round": 8,
    "method__sources__dpr__labeler": "j",
}


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer(longer_wins) as server:
        yield server


def make_judged(make_folder: MakeFolder, folder: Path, server: JudgeServer, **keys: Any) -> Path:
    """A folder whose run of one round is labelled by a judge; eight pairs, each in both orders, four a batch."""
    judge = {"kind": "judge", "base_url": server.url, "model": "judge", "template": "judge.txt", "concurrency": 1}
    made = make_folder(folder, **{**JUDGED, "labelers__j": {**judge, **keys}})
    (made / "judge.txt").write_text(TEMPLATE, encoding="utf-8")
    return made


def figures_of(folder: Path) -> dict[str, float]:
    (found,) = [
        event["figures"]["labelers"]["j"]
        for event in read_rows(folder / "run" / "ledger.jsonl")
        if event["event"] == "finish" and event["stage"] == "label"
    ]
    return found


def asked_of(server: JudgeServer, start: int = 0) -> Counter[str]:
    return Counter(json.dumps(one.body, sort_keys=True) for one in server.asked[start:])


def test_a_run_labelled_by_a_judge_has_its_verdicts_and_its_cost_to_the_token(
    make_folder: MakeFolder, align: Align, tmp_path: Path, server: JudgeServer
) -> None:
    price = {"input": 3.0, "output": 15.0}
    folder = make_judged(make_folder, tmp_path, server, price=price)
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    figures = figures_of(folder)
    assert (figures["prompt_tokens"], figures["completion_tokens"]) == server.tokens()
    assert figures["calls"] == len(server.asked)
    assert figures["cost"] == pytest.approx((3.0 * server.tokens()[0] + 15.0 * server.tokens()[1]) / 1e6)
    pairs = [row for row in read_rows(folder / "run/rounds/001/preferences.jsonl") if row["source"] == "dpr"]
    assert pairs
    for pair in pairs:
        assert len(pair["chosen"]) > len(pair["rejected"])
        assert (pair["labeler"], pair["verdicts"]) == ("j", {"j": 1.0})


@pytest.mark.parametrize(
    "stop",
    [
        Stop("fsync", 1),
        Stop("after fsync", 3),
        Stop("append", 1),
        Stop("after append", 1),
        Stop("fsync", 12),
        Stop("manifest", 1),
        Stop("after fsync", 5, signal.SIGINT),
        Stop("after fsync", 5, signal.SIGTERM),
    ],
    ids=lambda stop: f"{stop.before} {stop.nth} {stop.signal.name}",
)
@pytest.mark.long
def test_a_killed_label_stage_asks_for_nothing_twice_and_ends_in_the_same_bytes_and_figures(
    stop: Stop, make_folder: MakeFolder, align: Align, tmp_path: Path, server: JudgeServer
) -> None:
    whole, stopped = (make_judged(make_folder, tmp_path / name, server) for name in ("whole", "stopped"))
    assert align("train", "recipe.yaml", cwd=whole).code == 0
    once = asked_of(server)
    assert set(once.values()) == {1}
    start = len(server.asked)
    died = align("train", "recipe.yaml", cwd=stopped, stop=stop._replace(within="round 1 label"))
    assert died.code not in (0, 1, 2), died.err
    done = align("train", "recipe.yaml", cwd=stopped)
    assert done.code == 0, done.err
    assert asked_of(server, start) == once
    assert figures_of(stopped) == figures_of(whole)
    assert_same_runs(stopped, whole)


@pytest.mark.long
def test_a_budget_that_ran_out_stops_in_words_and_a_larger_one_goes_on(
    make_folder: MakeFolder, align: Align, tmp_path: Path, server: JudgeServer
) -> None:
    whole = make_judged(make_folder, tmp_path / "whole", server)
    assert align("train", "recipe.yaml", cwd=whole).code == 0
    once, start = asked_of(server), len(server.asked)
    folder = make_judged(make_folder, tmp_path / "short", server, budget={"calls": 5})
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert "labelers.j.budget.calls: the budget of 5 calls has run out: 5 requests were sent so far" in refused.err
    assert len(server.asked) - start == 5
    done = align("train", "recipe.yaml", "labelers.j.budget.calls=100", "labelers.j.concurrency=3", cwd=folder)
    assert done.code == 0, done.err
    assert asked_of(server, start) == once
    assert figures_of(folder) == figures_of(whole)


@pytest.mark.long
def test_a_chain_keeps_answers_too(make_folder: MakeFolder, align: Align, tmp_path: Path, server: JudgeServer) -> None:
    folder = make_judged(make_folder, tmp_path, server)
    completions = align("generate", "recipe.yaml", cwd=folder).out
    stop = Stop("after fsync", 6)
    assert align("label", "recipe.yaml", cwd=folder, stdin=completions, stop=stop).code == -signal.SIGKILL
    assert 0 < len(server.asked) < 16
    labelled = align("label", "recipe.yaml", cwd=folder, stdin=completions)
    assert labelled.code == 0, labelled.err
    assert set(asked_of(server).values()) == {1}
    asked = len(server.asked)
    assert align("label", "recipe.yaml", cwd=folder, stdin=completions).out == labelled.out
    assert len(server.asked) == asked


@pytest.mark.long
def test_an_interrupt_ends_it_at_once_though_an_answer_is_still_to_come(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    has_ended, labelling = threading.Event(), list[subprocess.Popen[str]]()

    def never_answer(number: int, body: dict[str, Any]) -> None:
        labelling[0].send_signal(signal.SIGINT)
        has_ended.wait(100)

    with JudgeServer(longer_wins, on_request=never_answer) as server:
        folder = make_judged(make_folder, tmp_path, server)
        (folder / "completions.jsonl").write_text(align("generate", "recipe.yaml", cwd=folder).out, encoding="utf-8")
        command = [sys.executable, "-c", MAIN, "label", "recipe.yaml"]
        labelling.append(
            subprocess.Popen([*command, "-i", "completions.jsonl"], cwd=folder, stderr=subprocess.PIPE, text=True)
        )
        _, err = labelling[0].communicate(timeout=90)
        has_ended.set()
    assert labelling[0].returncode == 130, err
    assert err.splitlines()[-1] == "interrupted"


def test_what_is_wrong_with_a_judge_is_told_before_anything_is_sampled(
    make_folder: MakeFolder, align: Align, tmp_path: Path, server: JudgeServer
) -> None:
    folder = make_judged(make_folder, tmp_path, server, api_key_env="NOT_SET_ANYWHERE")
    (folder / "judge.txt").write_text(TEMPLATE.replace("{second}", "{other}"), encoding="utf-8")
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert refused.err.splitlines()[-5:] == [
        "judge.txt:6: {other} is no field",
        "hint: fields are {prompt}, {first}, {second}; {{other}} is text",
        "labelers.j.api_key_env: the environment variable NOT_SET_ANYWHERE is not set",
        "hint: export NOT_SET_ANYWHERE=..., or name the variable that holds the key",
        "2 faults",
    ]
    assert not (folder / "run").exists()
    assert server.asked == []


def test_a_judge_that_answers_nonsense_stops_the_stage_and_what_it_wrote_is_escaped(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    def nonsense(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, answer = longer_wins(path, body)
        answer["choices"][0]["message"]["content"] = "\x1b[31mI like both.\x07"
        return status, answer

    with JudgeServer(nonsense) as server:
        folder = make_judged(make_folder, tmp_path, server, concurrency=8)
        refused = align("train", "recipe.yaml", "generate.prompts_per_round=16", cwd=folder)
    assert_refused(refused)
    assert "hold no verdict, more than max_unparsable allows" in refused.err
    assert "I like both." in refused.err
    assert "\x1b" not in refused.err and "\x07" not in refused.err


def test_importing_the_command_line_loads_no_client() -> None:
    code = "import sys, align_cli.cli.main, align_cli.labelers.judge; print('openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
