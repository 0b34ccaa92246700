"""A run that fits its own reward model: alone or as its first step, asked by labelers, kept, forked, and guarded."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from chat_models import make_chat_model
from forked import Finished, Stop, run_align
from killed_runs import differing_files, make_run
from run_fixtures import read_rows

VARIANT = "offline and dpr"
REWARD = {"model_name_or_path": "base_model", "max_steps": 4, "per_device_train_batch_size": 4, "eval_share": 0.3}
MINE = {"kind": "reward_model", "model_name_or_path": "run"}


def make(folder: Path, **changes: Any) -> Path:
    """A folder whose recipe fits a reward model and labels by it; the playground's own reward judges."""
    rewarded = {
        "rounds": 1,
        "reward": {**REWARD, "lora": {"rank": 2}},
        "labelers": {"mine": MINE},
        "method": {"sources": {"dpr": {"labeler": "mine"}}},
    }
    make_run(folder, VARIANT, **{**rewarded, **changes})
    make_chat_model(folder / "base_model")
    return folder


def align(folder: Path, command: str, *words: str, stop: Stop | None = None) -> Finished:
    return run_align(command, "recipe.yaml", *words, cwd=folder, stop=stop)


def finished_steps(folder: Path) -> list[str]:
    events = read_rows(folder / "run" / "ledger.jsonl")
    return [f"{event['round']} {event['stage']}" for event in events if event["event"] == "finish"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Shared."""
    folder = make(tmp_path_factory.mktemp("rewarded") / "whole")
    done = align(folder, "train")
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_it_is_fitted_once_before_the_first_round_and_labels_it(whole: Path) -> None:
    steps = ["0 sft", "0 reward", "0 evaluate", "1 generate", "1 label", "1 train", "1 evaluate"]
    assert finished_steps(whole) == steps
    pairs = read_rows(whole / "run/rounds/001/preferences.jsonl")
    assert {pair["labeler"] for pair in pairs} == {"mine"}
    from align_cli.labelers import build_labeler
    from align_cli.recipe.sections.labelers import RewardModelLabelerSection

    place = str(whole / "run/rounds/000/reward_model")
    labeler: Any = build_labeler("x", RewardModelLabelerSection(kind="reward_model", model_name_or_path=place))
    scores = labeler.score([pair["prompt"] for pair in pairs], [pair["chosen"] for pair in pairs])
    assert scores == pytest.approx([pair["chosen_score"] for pair in pairs], abs=1e-5)


def test_whoever_asks_it_was_made_from_it(whole: Path) -> None:
    manifests = [whole / f"run/rounds/{number:03d}/manifest.json" for number in (0, 1)]
    stages = [json.loads(path.read_text())["stages"] for path in manifests]
    assert "rounds/000/reward_model" in stages[1]["label"]["inputs"]["upstream"]
    assert "rounds/000/reward_model" not in stages[1]["evaluate"]["inputs"]["upstream"], "another one judges"
    assert stages[0]["reward"]["inputs"]["upstream"] == {}
    assert set(stages[0]["reward"]["inputs"]["files"]) == {"reward.model_name_or_path", "reward.preferences"}


def test_fitted_on_its_own_first_the_run_is_the_same(whole: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "alone")
    alone = align(folder, "reward", "--json")
    assert alone.code == 0, alone.err
    assert json.loads(alone.out)["num_steps"] == 4
    assert finished_steps(folder) == ["0 reward"]
    again = align(folder, "reward")
    assert "run: the reward model is fitted already" in again.err and "held out" in again.out
    assert align(folder, "train").code == 0
    assert finished_steps(folder).count("0 reward") == 1
    assert differing_files(folder, whole) == []


def test_another_setting_stops_whoever_would_go_on(copied: Path, tmp_path: Path) -> None:
    said = "since round 0 reward was finished, reward.learning_rate was 0.0001 and is now 0.5"
    for command in ("train", "reward"):
        refused = align(copied, command, "reward.learning_rate=0.5")
        assert refused.code == 2 and said in refused.err
    alone = make(tmp_path / "alone")
    assert align(alone, "reward").code == 0
    refused = align(alone, "train", "reward.learning_rate=0.5")
    assert refused.code == 2 and said in refused.err, "though the step before it is not finished"


def test_how_the_policy_is_trained_is_nothing_to_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "alone")
    assert align(folder, "reward").code == 0
    done = align(folder, "train", "policy.dtype=bfloat16", "method.beta=0.2", "policy.sft.max_steps=3")
    assert done.code == 0, done.err
    assert finished_steps(folder)[:2] == ["0 reward", "0 sft"]


def test_other_pairs_stop_it_too(copied: Path) -> None:
    rows = (copied / "pairs.jsonl").read_text().splitlines()
    (copied / "pairs.jsonl").write_text("\n".join(rows[1:]) + "\n")
    refused = align(copied, "reward")
    assert refused.code == 2 and "the contents of reward.preferences have changed" in refused.err


def test_a_fork_takes_it_over_and_cannot_have_another(copied: Path) -> None:
    done = align(copied, "train", "output_dir=fork", "rounds=2", "train.learning_rate=0.001", "--from", "run@1")
    assert done.code == 0, done.err
    for name in ("reward.json", "reward_model/model.safetensors"):
        assert (copied / "fork/rounds/000" / name).read_bytes() == (copied / "run/rounds/000" / name).read_bytes()
    refused = align(copied, "train", "output_dir=other", "rounds=2", "reward.max_steps=5", "--from", "run@1")
    assert refused.code == 2 and "reward.max_steps was 4 and is now 5" in refused.err


def test_a_single_command_fits_it_where_it_is_asked_and_finds_it_the_next_time(whole: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "single")
    assert align(folder, "generate", "-o", "completions.jsonl").code == 0
    labelled = align(folder, "label", "-i", "completions.jsonl", "-o", "pairs_of_it.jsonl")
    assert labelled.code == 0, labelled.err
    assert finished_steps(folder) == ["0 sft", "0 reward"]
    ours, theirs = folder / "pairs_of_it.jsonl", whole / "run/rounds/001/preferences.jsonl"
    assert ours.read_bytes() == theirs.read_bytes()
    assert align(folder, "label", "-i", "completions.jsonl", "-o", "again.jsonl").code == 0
    assert finished_steps(folder) == ["0 sft", "0 reward"]


def test_a_damaged_one_is_named_before_it_is_asked(copied: Path) -> None:
    weights = copied / "run/rounds/000/reward_model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    checked = align(copied, "check", "rounds=2")
    trained = align(copied, "train", "rounds=2")
    for done in (checked, trained):
        assert done.code == 2 and "reward_model/model.safetensors" in done.err


def test_a_recipe_without_one_says_what_is_lacking(copied: Path) -> None:
    refused = align(copied, "reward", "reward=null", "labelers.mine={kind: function, function: 'labeler.py:score'}")
    assert refused.code == 2
    assert refused.err.startswith("reward: the recipe fits no reward model\nhint: add the section reward")


def test_it_may_judge_as_well(tmp_path: Path) -> None:
    changes = {"evaluate": {"scorer": "mine"}, "reward": {**REWARD, "head": "frozen", "max_steps": None}}
    folder = make(tmp_path / "judged", **changes)
    done = align(folder, "train")
    assert done.code == 0, done.err
    stages = json.loads((folder / "run/rounds/000/manifest.json").read_text())["stages"]
    assert "rounds/000/reward_model" in stages["evaluate"]["inputs"]["upstream"]
    other = align(folder, "train", "seed=1", "output_dir=other")
    assert other.code == 0, other.err
    refused = run_align("compare", "run", "other", cwd=folder)
    assert refused.code == 2
    assert "the two scorers named mine differ in what they were fitted to, each in its own run" in refused.err


def test_a_smoke_run_goes_through_it(copied: Path) -> None:
    done = align(copied, "train", "--smoke", "output_dir=other")
    assert done.code == 0, done.err
    assert "round 0 reward: " in done.err


def test_status_shows_what_it_is_worth(whole: Path) -> None:
    shown = run_align("status", "run", cwd=whole).out
    (line,) = [line for line in shown.splitlines() if " reward " in line and "held-out" in line]
    assert "on held-out pairs, of length alone" in line and "MB" in line


@pytest.mark.parametrize(
    "stop",
    [
        Stop("ledger", within="round 0 reward"),
        pytest.param(Stop("manifest", within="round 0 reward"), marks=pytest.mark.long),
        pytest.param(Stop("after append", 1, within="round 0 reward"), marks=pytest.mark.long),
    ],
    ids=lambda stop: stop.before,
)
def test_killed_within_it_a_run_ends_in_the_same_bytes(whole: Path, tmp_path: Path, stop: Stop) -> None:
    folder = make(tmp_path / "killed")
    assert align(folder, "train", stop=stop).code == -signal.SIGKILL
    done = align(folder, "train")
    assert done.code == 0, done.err
    assert differing_files(folder, whole) == []
