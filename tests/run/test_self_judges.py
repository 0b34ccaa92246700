"""Runs whose policy judges itself: killed, checked, as single commands, and refused as a scorer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_models import make_chat_model
from forked import Stop
from run_fixtures import NO_EVALUATION, Align, MakeFolder, assert_refused, assert_same_runs, read_rows

DIGITS = "answer: (\\d)\nlowest: 0\nhighest: 9\n--- user\n{prompt}|{completion}"
JUDGE = {"kind": "self_judge", "template": "digits.txt", "max_new_tokens": 40, "batch_size": 12, "max_unparsable": 0.9}


def self_judged(make_folder: MakeFolder, folder: Path, **keys: Any) -> Path:
    """A folder whose run of two rounds is labelled by its policy, four responses a batch."""
    defaults = {
        **NO_EVALUATION,
        "rounds": 2,
        "policy": {"model_name_or_path": "model", "reference": "previous"},
        "labelers__own": {**JUDGE, **keys},
        "method__sources": {"dpr": {"mixing": 1.0, "labeler": "own"}},
        "generate": {"num_generations": 3, "max_new_tokens": 12, "prompts_per_round": 8},
    }
    made = make_folder(folder, **defaults)
    make_chat_model(made / "model", context_length=256)
    (made / "digits.txt").write_text(DIGITS, encoding="utf-8")
    return made


def figures_of(folder: Path) -> list[dict[str, float]]:
    return [
        event["figures"]["labelers"]["own"]
        for event in read_rows(folder / "run" / "ledger.jsonl")
        if event["event"] == "finish" and event["stage"] == "label"
    ]


@pytest.fixture(scope="module")
def whole(make_folder: MakeFolder, align: Align, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody killed."""
    folder = self_judged(make_folder, tmp_path_factory.mktemp("judged") / "whole")
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    "stop",
    [
        Stop("append", 3, within="round 2 label"),
        pytest.param(Stop("after append", 1, within="round 1 label"), marks=pytest.mark.long),
        pytest.param(Stop("amid append", 4, within="round 1 label"), marks=pytest.mark.long),
        pytest.param(Stop("sampling", 2, within="round 1 label"), marks=pytest.mark.long),
        pytest.param(Stop("manifest", 1, within="round 2 label"), marks=pytest.mark.long),
    ],
    ids=lambda stop: f"{stop.before} {stop.nth}, {stop.within}",
)
def test_a_run_killed_while_its_policy_judges_ends_in_the_same_bytes_and_figures(
    stop: Stop, whole: Path, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    stopped = self_judged(make_folder, tmp_path / "stopped")
    died = align("train", "recipe.yaml", cwd=stopped, stop=stop)
    assert died.code not in (0, 1, 2), died.err
    done = align("train", "recipe.yaml", cwd=stopped)
    assert done.code == 0, done.err
    assert figures_of(stopped) == figures_of(whole)
    assert len({figures["completion_tokens"] for figures in figures_of(whole)}) == 2, "each round has its own answers"
    assert_same_runs(stopped, whole)


def test_the_commands_of_a_chain_label_by_the_policy_that_they_are_given(
    whole: Path, align: Align, tmp_path: Path
) -> None:
    folder = tmp_path / "chain"
    shutil.copytree(whole, folder)
    completions, pairs = (f"run/rounds/002/{name}.jsonl" for name in ("completions", "preferences"))
    given = align("label", "recipe.yaml", "-i", completions, "--policy", "run/rounds/001/checkpoint", cwd=folder)
    assert given.code == 0, given.err
    assert given.out == (folder / pairs).read_text(encoding="utf-8")
    initial = align("label", "recipe.yaml", "-i", completions, cwd=folder)
    assert initial.code == 0, initial.err
    assert initial.out != given.out


def test_check_looks_at_the_template_and_at_the_room_and_samples_nothing(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = self_judged(make_folder, tmp_path)
    sound = align("check", "recipe.yaml", cwd=folder)
    assert sound.code == 0, sound.err
    assert "kind: self_judge" in sound.out
    refused = align("check", "recipe.yaml", "labelers.own.max_new_tokens=300", cwd=folder)
    assert_refused(refused)
    assert "(generate.max_new_tokens) and an answer 300: more than the policy's context of 256" in refused.err
    (folder / "digits.txt").write_text(DIGITS.replace("{completion}", "{reply}"), encoding="utf-8")
    broken = align("check", "recipe.yaml", cwd=folder)
    assert_refused(broken)
    assert broken.err.count("digits.txt:5: {reply} is no field") == 1
    assert not (folder / "run").exists()


def test_a_policy_that_writes_nonsense_stops_the_stage_and_another_bound_goes_on(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = self_judged(make_folder, tmp_path, max_unparsable=0.01, max_new_tokens=20)
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert "labelers.own.max_unparsable" in refused.err and "answers hold no verdict" in refused.err
    assert "\x1b" not in refused.err
    done = align("train", "recipe.yaml", "labelers.own.max_unparsable=0.9", cwd=folder)
    assert done.code == 0, done.err
    assert figures_of(folder)[0]["unparsable_share"] > 0.01
