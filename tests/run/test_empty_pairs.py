"""Pairs that teach nothing are refused with the cause and the counts: offline ones before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_fixtures import Align, MakeFolder, assert_refused, write_rows

from align_cli.playground.world import preferences

SAME = {"prompt": "a", "chosen": "b", "rejected": "b"}
TIE = {"prompt": "a", "chosen": " good", "rejected": " poor", "label": 0.5}
EMPTY = {"prompt": "a", "chosen": "", "rejected": " poor"}
UNKNOWN = {"prompt": "a", "chosen": "Paris", "rejected": "Rome"}
"""Two words that the playground's tokenizer does not know: to the policy they are one and the same."""
DROPPING = ("label.equal_texts=drop", "label.ties=drop", "label.empty_texts=drop", "method.sources.dpr.gradient=0")


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        ([SAME] * 4, "of 4 pairs none is left: 4 with the same text or the same tokens as chosen"),
        ([UNKNOWN] * 2, "of 2 pairs none is left: 2 with the same text or the same tokens as chosen"),
        ([TIE], "of 1 pair none is left: 1 with equal scores or a label of one half"),
        ([SAME, TIE, EMPTY, EMPTY], "of 4 pairs none is left: 2 with an empty text, 1 with the same text or"),
    ],
)
def test_pairs_of_which_none_is_left_are_refused_before_anything_is_made(
    rows: list[dict[str, Any]], counts: str, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    write_rows(folder / "pairs.jsonl", rows)
    refused = align("train", "recipe.yaml", *DROPPING, cwd=folder)
    assert_refused(refused)
    assert f"data.preferences: {counts}" in refused.err
    assert not (folder / "run").exists()


def test_one_pair_that_is_left_is_enough(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, rounds=1)
    write_rows(folder / "pairs.jsonl", [SAME, preferences("few", 0)[0]])
    done = align("train", "recipe.yaml", *DROPPING, cwd=folder)
    assert done.code == 0, done.err


def test_held_out_pairs_of_which_none_is_left_are_refused_too(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    write_rows(folder / "eval_pairs.jsonl", [SAME, TIE])
    refused = align("check", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert "data.eval_preferences: of 2 pairs none is left: 1 with the same text" in refused.err
    assert "label." not in refused.err, "what a recipe leaves out in training changes no evaluation"


SEES_NO_DIFFERENCE = "def score(prompts, completions):\n    return [0.0] * len(completions)\n"


def test_a_round_without_a_pair_says_what_became_of_them_and_goes_on_with_a_better_labeler(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, rounds=1, evaluate=None, data__eval_prompts=None, data__eval_preferences=None)
    labeler = folder / "labeler.py"
    better = labeler.read_text(encoding="utf-8")
    labeler.write_text(SEES_NO_DIFFERENCE, encoding="utf-8")
    stopped = align("train", "recipe.yaml", *DROPPING, cwd=folder)
    assert stopped.code == 2
    assert "method.sources.dpr: source 'dpr' has a share of 0.5, and of 16 pairs none is left: " in stopped.err
    assert "with equal scores or a label of one half" in stopped.err and "label.ties to keep" in stopped.err
    labeler.write_text(better, encoding="utf-8")
    done = align("train", "recipe.yaml", *DROPPING, cwd=folder)
    assert done.code == 0, done.err
    assert "going on after round 1 generate, with round 1 label" in done.err


@pytest.mark.long
def test_a_round_without_a_pair_goes_on_where_pairs_are_replayed_and_says_so(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, rounds=1, evaluate=None, data__eval_prompts=None, data__eval_preferences=None)
    replaying = (*DROPPING, "train.replay_rounds=1")
    assert align("train", "recipe.yaml", *replaying, cwd=folder).code == 0
    fork = ("output_dir=next", "rounds=2", "--from", "run@1")
    (folder / "labeler.py").write_text(SEES_NO_DIFFERENCE, encoding="utf-8")
    done = align("train", "recipe.yaml", *replaying, *fork, cwd=folder)
    assert done.code == 0, done.err
    assert "warning: round 2 label: source 'dpr' has a share of 0.5, and of 16 pairs none is left: " in done.err
