"""Faults of labelers and inputs: said clearly, before anything is made where that can be known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import LABELER, Align, MakeFolder, assert_refused, files_below

LABELERS = {
    "return [1.0] * (len(completions) + 1)": [
        "labelers.ours: the function returned 3 scores for 2 completions (prompts 0 to 1)",
        "hint: return one number a completion, in their order",
    ],
    "return [float('nan')] * len(completions)": [
        "labelers.ours: the function returned nan for the prompt with index 0",
        "hint: every score must be a finite number, of at most 1e+100 in size",
    ],
    "return [0.0, float('inf')]": [
        "labelers.ours: the function returned inf for the prompt with index 1",
        "hint: every score must be a finite number, of at most 1e+100 in size",
    ],
    "return 'high'": [
        "labelers.ours: the function returned str; it must return a list of numbers",
        "hint: return one number a completion, in their order",
    ],
    "return None": [
        "labelers.ours: the function returned NoneType; it must return a list of numbers",
        "hint: return one number a completion, in their order",
    ],
}
INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "no prompts": ({"data__prompts": "empty.jsonl"}, "empty.jsonl: there are no rows"),
    "no held-out prompts": ({"data__eval_prompts": "empty.jsonl"}, "empty.jsonl: there are no rows"),
    "no such file": (
        {"data__preferences": "missing.jsonl"},
        "data.preferences is 'missing.jsonl'; there is no such file",
    ),
    "no such function": (
        {"labelers__ours__function": "labeler.py:scores"},
        "labelers.ours: labeler.py has no function 'scores'\nhint: did you mean 'score'?",
    ),
    "no such module": (
        {"labelers__ours__function": "no_such_package.rewards:score"},
        "labelers.ours: there is no module 'no_such_package.rewards'",
    ),
    "a source without a labeler": (
        {"method__sources__dpr__labeler": None},
        "method.sources.dpr has no labeler; its responses come from the policy and need a score",
    ),
    "shares that do not sum to 1": (
        {"method__sources__dpr__mixing": 0.6},
        "the shares offline 0.5 and dpr 0.6 sum to 1.1; they must sum to 1",
    ),
}


def labeler(body: str) -> str:
    return f"def score(prompts, completions):\n    {body}\n"


@pytest.mark.parametrize("body", LABELERS)
def test_a_labeler_that_gives_no_scores_is_refused_before_anything_is_made(
    make_folder: MakeFolder, align: Align, tmp_path: Path, body: str
) -> None:
    folder = make_folder(tmp_path)
    (folder / "labeler.py").write_text(labeler(body))
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert refused.err.splitlines() == LABELERS[body]
    assert not (folder / "run").exists()


def test_a_labeler_that_raises_is_shown_with_its_own_traceback_and_the_prompt(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    (folder / "labeler.py").write_text(labeler("return [1 / 0 for _ in prompts]"))
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert refused.err.splitlines()[:2] == [
        "labelers.ours: the function raised on the prompt with index 0",
        "Traceback (most recent call last):",
    ]
    assert 'labeler.py", line 2, in score' in refused.err
    assert refused.err.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert refused.err.count("Traceback") == 1
    assert not (folder / "run").exists()


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_cannot_be_used_is_refused_before_anything_is_made(
    make_folder: MakeFolder, align: Align, tmp_path: Path, name: str
) -> None:
    changes, what = INPUTS[name]
    folder = make_folder(tmp_path, **changes)
    (folder / "empty.jsonl").write_text("\n")
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert what in refused.err
    assert "Traceback" not in refused.err
    assert not (folder / "run").exists()


LATE_FAULT = labeler("assert prompts == completions, 'I only know short texts'; return [0.0] * len(prompts)")


def test_a_labeler_that_raises_on_a_response_ends_the_run_and_keeps_what_was_finished(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    (folder / "labeler.py").write_text(LATE_FAULT)
    refused = align("train", "recipe.yaml", cwd=folder)
    assert (refused.code, refused.out) == (2, "")
    first = json.loads((folder / "run" / "rounds" / "001" / "completions.jsonl").read_text().splitlines()[0])
    assert f"labelers.ours: the function raised on the prompt with index {first['prompt_index']}" in refused.err
    assert "AssertionError: I only know short texts" in refused.err
    kept = files_below(folder / "run" / "rounds")
    assert "001/completions.jsonl" in kept
    assert "001/preferences.jsonl" not in kept
    again = align("train", "recipe.yaml", cwd=folder)
    assert "run: going on after round 1 generate, with round 1 label" in again.err.splitlines()
    assert files_below(folder / "run" / "rounds") == kept


@pytest.mark.long
def test_a_labeler_that_raised_on_a_response_may_be_mended_and_the_run_goes_on(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, rounds=1)
    (folder / "labeler.py").write_text(LATE_FAULT)
    assert align("train", "recipe.yaml", cwd=folder).code == 2
    (folder / "labeler.py").write_text(LABELER)
    mended = align("train", "recipe.yaml", cwd=folder)
    assert mended.code == 0, mended.err
