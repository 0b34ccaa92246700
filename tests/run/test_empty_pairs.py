"""Offline pairs that teach nothing are refused before anything is sampled or written, with the cause and the counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_fixtures import Align, MakeFolder, assert_refused, write_rows

from align_cli.playground.world import preferences

SAME = {"prompt": "a", "chosen": "b", "rejected": "b"}
TIE = {"prompt": "a", "chosen": "b", "rejected": "c", "label": 0.5}
EMPTY = {"prompt": "a", "chosen": "", "rejected": "c"}
DROPPING = ("label.equal_texts=drop", "label.ties=drop", "label.empty_texts=drop", "method.sources.dpr.gradient=0")


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        ([SAME] * 4, "of 4 pairs none is left: 4 with the same text as chosen and as rejected"),
        ([TIE], "of 1 pairs none is left: 1 with a label of one half"),
        ([SAME, TIE, EMPTY, EMPTY], "of 4 pairs none is left: 2 with an empty text, 1 with the same text"),
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
