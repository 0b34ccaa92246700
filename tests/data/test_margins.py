"""`margin` of a pair: by how much a reward model's scores are to be apart, TRL's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align_cli.data import read_preferences
from align_cli.errors import DataError


def rows(folder: Path, **extra: Any) -> list[dict[str, Any]]:
    path = folder / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c", **extra}) + "\n", encoding="utf-8")
    return [dict(row) for row in read_preferences(str(path))]


def test_it_is_read_beside_the_label_and_left_out_where_there_is_none(tmp_path: Path) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert rows(tmp_path, margin=1.5) == [{**pair, "margin": 1.5}]
    assert rows(tmp_path, margin=2, label=0.9) == [{**pair, "label": 0.9, "margin": 2.0}]
    assert rows(tmp_path) == rows(tmp_path, margin=None) == [pair]


def test_one_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'margin'"):
        rows(tmp_path, margin="much")


def test_texts_that_begin_alike_are_split_though_there_is_a_margin(tmp_path: Path) -> None:
    path = tmp_path / "implicit.jsonl"
    path.write_text(json.dumps({"chosen": "one two", "rejected": "one three", "margin": 1}) + "\n", encoding="utf-8")
    assert [dict(row) for row in read_preferences(str(path))] == [
        {"prompt": "one", "chosen": " two", "rejected": " three", "margin": 1.0}
    ]
