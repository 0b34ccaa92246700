"""Which held-out prompts are among those of a source."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts import remembered
from align_cli.data import overlap, read_prompts
from align_cli.data.overlap import Overlap, overlaps_of

Rows = Sequence[Mapping[str, Any]]


def prompts(*texts: str) -> list[dict[str, str]]:
    return [{"prompt": text} for text in texts]


def test_case_and_white_space_make_no_prompt_another_and_equal_ones_count_once() -> None:
    held_out = prompts("one", "TWO  words", "nine", "one")
    assert overlaps_of(prompts("one", "two words ", "three", "one"), [held_out]) == [Overlap(3, same=1, alike=2)]
    chat = [{"prompt": [{"role": "user", "content": "one"}]}]
    assert overlaps_of(chat, [prompts("one")]) == [Overlap(1, same=0, alike=1)]
    assert overlaps_of([], [held_out]) == [Overlap(3, 0, 0)]


def test_what_is_held_out_twice_is_looked_for_in_one_go() -> None:
    gone_through: list[str] = []

    class Counted(list[dict[str, str]]):
        def __iter__(self) -> Iterator[dict[str, str]]:
            gone_through.append("once")
            return super().__iter__()

    rows = Counted(prompts("one", "two", "three"))
    assert overlaps_of(rows, [prompts("one", "One"), prompts("two", "four", "one")]) == [(2, 1, 2), (3, 2, 2)]
    assert gone_through == ["once"]
    assert overlaps_of(rows, []) == []


def test_what_was_found_of_large_files_is_remembered_until_either_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gone_through: list[int] = []
    found = overlap._found

    def counted(rows: Rows, held_out: Sequence[Rows]) -> list[Overlap]:
        gone_through.append(len(held_out))
        return found(rows, held_out)

    monkeypatch.setattr(overlap, "_found", counted)
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in prompts("one", "two")))
    large = read_prompts(str(tmp_path / "rows.jsonl"))
    large.keep(remembered.key_of("rows"))
    two_and_three, three = prompts("two", "three"), prompts("three")
    for _ in range(2):
        assert overlaps_of(large, [two_and_three]) == [Overlap(2, 1, 1)]
    assert gone_through == [1]
    assert overlaps_of(large, [three, two_and_three]) == [Overlap(1, 0, 0), Overlap(2, 1, 1)]
    assert gone_through == [1, 1]
    large.keep(remembered.key_of("other rows"))
    assert overlaps_of(large, [three, two_and_three]) == [Overlap(1, 0, 0), Overlap(2, 1, 1)]
    assert gone_through == [1, 1, 2]
