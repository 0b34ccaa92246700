"""Runs whose labels and evaluations come from several labelers put together, and single stages with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from forked import Stop
from run_fixtures import Align, MakeFolder, assert_same_runs, read_rows

SHORT = "\n\ndef shortness(prompts, completions):\n    return [-float(len(text)) for text in completions]\n"
BYS = ["vote", pytest.param("sum", marks=pytest.mark.long), pytest.param("agreement", marks=pytest.mark.long)]


def made(make_folder: MakeFolder, folder: Path, by: str) -> Path:
    labelers = {
        "hidden": {"kind": "function", "function": "align_cli.playground:hidden_reward"},
        "short": {"kind": "function", "function": "labeler.py:shortness", "batch_size": 5},
        "both": {"kind": "combination", "by": by, "of": {"hidden": 1.0, "short": 0.5}},
    }
    make_folder(
        folder,
        rounds=1,
        labelers=labelers,
        method__sources={"offline": {"mixing": 0.5}, "dpr": {"mixing": 0.5, "gradient": 0.3, "labeler": "both"}},
        label={"labels": "soft", "pairs": "all"},
        evaluate={"num_prompts": 8, "scorers": ["hidden", "both", "short"], "temperature": 0.7},
        generate={"num_generations": 3, "max_new_tokens": 12, "prompts_per_round": 6},
    )
    with (folder / "labeler.py").open("a", encoding="utf-8") as stream:
        stream.write(SHORT)
    return folder


@pytest.fixture(scope="module", params=BYS)
def whole(
    request: pytest.FixtureRequest, make_folder: MakeFolder, align: Align, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """How they are put together, and the folder of a run that nobody killed."""
    folder = made(make_folder, tmp_path_factory.mktemp("several") / "whole", request.param)
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    return request.param, folder


def rows(folder: Path, number: int, name: str) -> list[dict[str, Any]]:
    return read_rows(folder / "run" / "rounds" / f"{number:03d}" / name)


def test_pairs_say_what_each_labeler_said(whole: tuple[str, Path]) -> None:
    by, folder = whole
    pairs = rows(folder, 1, "preferences.jsonl")
    assert len(pairs) == 18 and {pair["labeler"] for pair in pairs} == {"both"}
    for pair in pairs:
        if by == "sum":
            chosen, rejected = pair["chosen_scores"], pair["rejected_scores"]
            assert list(chosen) == list(rejected) == ["hidden", "short"]
            assert chosen["short"] == -len(pair["chosen"])
            assert pair["chosen_score"] >= pair["rejected_score"]
            assert "verdicts" not in pair
        else:
            verdicts = pair["verdicts"]
            wins = len(pair["chosen"]) < len(pair["rejected"])
            assert verdicts["short"] == (0.5 if len(pair["chosen"]) == len(pair["rejected"]) else float(wins))
            share = (verdicts["hidden"] + 0.5 * verdicts["short"]) / 1.5
            agrees = (verdicts["hidden"] - 0.5) * (verdicts["short"] - 0.5) > 0
            assert pair["label"] == pytest.approx(share if by == "vote" or agrees else 0.5)
            assert pair["chosen_score"] is None and "chosen_scores" not in pair
    assert any(pair["label"] != 0.5 for pair in pairs)


def test_evaluations_hold_every_scorer_and_samples_every_score(whole: tuple[str, Path]) -> None:
    by, folder = whole
    evaluation = json.loads((folder / "run" / "rounds" / "001" / "evaluation.json").read_text())
    assert evaluation["scorer"] == "hidden" and list(evaluation["other_scorers"]) == ["both", "short"]
    assert evaluation["sampling"]["temperature"] == 0.7
    assert (evaluation["other_scorers"]["both"]["reward"] is None) == (by != "sum")
    for against in (evaluation["against"], *(one["against"] for one in evaluation["other_scorers"].values())):
        assert list(against) == ["initial", "previous"]
        assert all(0 <= one["length_controlled_win_rate"] <= 1 for one in against.values())
    for sample in rows(folder, 1, "samples.jsonl"):
        assert list(sample["scores"]) == (["hidden", "both", "short"] if by == "sum" else ["hidden", "short"])
        assert sample["scores"]["short"] == -len(sample["completion"])


def test_a_chain_of_commands_labels_and_evaluates_as_the_run_did(
    whole: tuple[str, Path], align: Align, tmp_path: Path
) -> None:
    _, folder = whole
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    first = copy / "run" / "rounds" / "001"
    labelled = align("label", "recipe.yaml", "-i", str(first / "completions.jsonl"), cwd=copy)
    assert labelled.code == 0, labelled.err
    assert labelled.out == (first / "preferences.jsonl").read_text(encoding="utf-8")
    evaluated = align("evaluate", "recipe.yaml", "--policy", "run/rounds/001/checkpoint", cwd=copy)
    assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out) == json.loads((first / "evaluation.json").read_text())


@pytest.mark.parametrize(
    "stop",
    [
        Stop("after append", 2, within="round 1 label"),
        pytest.param(Stop("amid append", 3, within="round 1 label"), marks=pytest.mark.long),
        pytest.param(Stop("after append", 4, within="round 1 evaluate"), marks=pytest.mark.long),
    ],
    ids=lambda stop: f"{stop.before} {stop.nth} in {stop.within}",
)
def test_killed_while_they_are_asked_a_run_ends_in_the_same_bytes(
    whole: tuple[str, Path], make_folder: MakeFolder, align: Align, tmp_path: Path, stop: Stop
) -> None:
    by, folder = whole
    other = made(make_folder, tmp_path / "killed", by)
    assert align("train", "recipe.yaml", cwd=other, stop=stop).code == -stop.signal
    done = align("train", "recipe.yaml", cwd=other)
    assert done.code == 0, done.err
    assert_same_runs(folder, other)


def test_a_check_finds_what_is_wrong_with_a_member(whole: tuple[str, Path], align: Align, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole[1], tmp_path / "copy", ignore=shutil.ignore_patterns("run")))
    (copy / "labeler.py").write_text(
        "def shortness(prompts, completions):\n    return ['long'] * len(prompts)\n", encoding="utf-8"
    )
    found = align("check", "recipe.yaml", cwd=copy)
    assert found.code == 2 and "labelers.short: the function returned 'long'" in found.err + found.out
