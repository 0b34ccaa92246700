"""Which held-out prompts are among those of a source."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts import remembered
from align_cli.data import overlap, read_prompts
from align_cli.data.overlap import Overlap, overlap_of


def prompts(*texts: str) -> list[dict[str, str]]:
    return [{"prompt": text} for text in texts]


def test_case_and_white_space_make_no_prompt_another_and_equal_ones_count_once() -> None:
    held_out = prompts("one", "TWO  words", "nine", "one")
    assert overlap_of(prompts("one", "two words ", "three", "one"), held_out) == Overlap(3, same=1, alike=2)
    chat = [{"prompt": [{"role": "user", "content": "one"}]}]
    assert overlap_of(chat, prompts("one")) == Overlap(1, same=0, alike=1)
    assert overlap_of([], held_out) == Overlap(3, 0, 0)


def test_what_was_found_of_large_files_is_remembered_until_either_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gone_through: list[int] = []
    found = overlap._found

    def counted(rows: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> Overlap:
        gone_through.append(len(rows))
        return found(rows, held_out)

    monkeypatch.setattr(overlap, "_found", counted)
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in prompts("one", "two")))
    large = read_prompts(str(tmp_path / "rows.jsonl"))
    large.keep(remembered.key_of("rows"))
    for _ in range(2):
        assert overlap_of(large, prompts("two", "three")) == Overlap(2, 1, 1)
    assert gone_through == [2]
    assert overlap_of(large, prompts("three")) == Overlap(1, 0, 0)
    large.keep(remembered.key_of("other rows"))
    assert overlap_of(large, prompts("three")) == Overlap(1, 0, 0)
    assert gone_through == [2, 2, 2]
