"""Journals: what was appended is there after a kill, and nothing that is not whole ever is."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts.journal import Journal

ROWS: list[dict[str, Any]] = [
    {"position": 0, "logps": [-0.1, -1e-300, 1 / 3], "text": "naïve 漢字 😀"},
    {"scores": [0.5, -2.0]},
    {"text": "lines\nand\r\n\u2028 \x00 \x85 \x1a"},
]


def write(path: Path, rows: Sequence[dict[str, Any]] = ROWS, key: str = "key") -> None:
    """The rows, each in an append of its own."""
    with Journal(path, key) as journal:
        for row in rows:
            journal.append([row])


def rows_of(path: Path, key: str = "key") -> list[dict[str, Any]]:
    with Journal(path, key) as journal:
        return list(journal.rows)


def line_ends(content: bytes) -> list[int]:
    return [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work" / "001-generate" / "samples.jsonl"


def test_a_new_journal_is_empty_and_its_folder_is_made(path: Path) -> None:
    assert rows_of(path) == []
    assert path.is_file()


def test_rows_are_there_after_reopening_as_they_were(path: Path) -> None:
    write(path)
    assert rows_of(path) == ROWS


def test_opening_changes_no_byte(path: Path) -> None:
    write(path)
    content = path.read_bytes()
    rows_of(path)
    assert path.read_bytes() == content


def test_rows_that_are_appended_after_reopening_follow_the_others(path: Path) -> None:
    write(path, ROWS[:1])
    write(path, ROWS[1:])
    assert rows_of(path) == ROWS


def test_rows_of_one_append_keep_their_order_and_need_no_list(path: Path) -> None:
    with Journal(path, "key") as journal:
        journal.append(row for row in ROWS)
        assert journal.rows == ROWS
    assert rows_of(path) == ROWS


def test_rows_are_those_of_all_appends_also_while_it_is_open(path: Path) -> None:
    write(path, ROWS[:1])
    for journal in (Journal(path, "key"), Journal()):
        with journal:
            before = list(journal.rows)
            journal.append(ROWS[1:2])
            journal.append(ROWS[2:])
            assert journal.rows == [*before, *ROWS[1:]]
    assert before == []


def test_a_journal_is_closed_with_its_block(path: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    journals = [Journal(path.with_name(name), "key") for name in ("a", "b", "c")]
    for journal in journals:
        with journal:
            journal.append(ROWS)
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert all(journal.rows == ROWS for journal in journals)


def test_rows_do_not_change_when_what_was_appended_does(path: Path) -> None:
    row: dict[str, Any] = {"a": 1}
    with Journal(path, "key") as journal:
        journal.append([row])
        row["a"] = 2
        assert journal.rows == [{"a": 1}]


def test_half_a_surrogate_pair_comes_back(path: Path) -> None:
    rows = [{"text": "\ud83d"}, {"text": "\udc00\ud83d and 😀"}]
    write(path, rows)
    assert rows_of(path) == rows


def test_what_is_no_number_in_json_is_not_written(path: Path) -> None:
    write(path)
    with Journal(path, "key") as journal, pytest.raises(ValueError):
        journal.append([{"score": float("nan")}])
    assert rows_of(path) == ROWS


def test_an_append_is_durable_when_it_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    def fsync(descriptor: int) -> None:
        lengths.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    with Journal(path, "key") as journal:
        for row in ROWS:
            journal.append([row])
            assert lengths[-1] == path.stat().st_size
    assert len(set(lengths)) == len(ROWS)


def test_a_journal_that_was_never_closed_holds_what_was_appended(path: Path) -> None:
    journal = Journal(path, "key")
    journal.append(ROWS)
    assert rows_of(path) == ROWS
    journal.__exit__(None, None, None)


def test_a_journal_that_was_cut_at_any_byte_holds_the_lines_before_and_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    write(path)
    content = path.read_bytes()
    ends = line_ends(content)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        kept = max(sum(end <= length for end in ends) - 1, 0)
        assert rows_of(path) == ROWS[:kept], length
        write(path, ROWS[kept:])
        assert rows_of(path) == ROWS, length
        assert path.read_bytes() == content, length


def test_any_flipped_bit_drops_its_line_and_all_that_follow(path: Path) -> None:
    rows = [{"a": 1}, {"b": "é"}, {}]
    write(path, rows)
    content = path.read_bytes()
    ends = line_ends(content)
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            kept = max(sum(end <= position for end in ends) - 1, 0)
            assert rows_of(path) == rows[:kept], (position, bit)
            assert path.read_bytes() == content[: ends[kept]], (position, bit)


@pytest.mark.parametrize("index", range(1, len(ROWS)))
def test_a_line_of_zeros_drops_itself_and_all_that_follow(index: int, path: Path) -> None:
    """What some file systems leave of a write that did not reach the disk."""
    write(path)
    content = path.read_bytes()
    ends = line_ends(content)
    path.write_bytes(content[: ends[index]] + bytes(ends[index + 1] - ends[index]) + content[ends[index + 1] :])
    assert rows_of(path) == ROWS[:index]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\n\n", bytes(100), b"00000000 \n", b"f4dbdf21 0\n", b"{}\n", b"\xff\xfe\n", b" \n"]
)
def test_a_file_that_is_no_journal_is_begun_anew(content: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert rows_of(path) == []
    write(path)
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("text", [b"[]", b"0", b'"text"', b"null"])
def test_a_whole_line_that_is_no_row_drops_itself_and_all_that_follow(text: bytes, path: Path) -> None:
    write(path, ROWS[:1])
    with path.open("ab") as stream:
        stream.write(b"%08x %s\n" % (zlib.crc32(text), text))
    content = path.read_bytes()
    write(path, ROWS[1:])
    assert rows_of(path) == ROWS
    assert not path.read_bytes().startswith(content)


def test_a_journal_for_something_else_is_begun_anew(path: Path) -> None:
    write(path, key="other")
    assert rows_of(path, "key") == []
    assert rows_of(path, "other") == []
    write(path, ROWS[:1])
    assert rows_of(path) == ROWS[:1]


def test_a_journal_that_is_a_link_or_no_file_is_begun_anew(path: Path, stranger: Callable[[Path], Path]) -> None:
    stranger(path)
    assert rows_of(path) == []
    write(path)
    assert rows_of(path) == ROWS
    assert not path.is_symlink()


def test_a_journal_that_is_a_link_to_a_whole_one_is_begun_anew(path: Path) -> None:
    write(path)
    elsewhere = path.rename(path.with_name("elsewhere.jsonl"))
    path.symlink_to(elsewhere)
    assert rows_of(path) == []
    assert rows_of(elsewhere) == ROWS


def test_a_row_that_looks_like_a_header_is_a_row(path: Path) -> None:
    rows = [{"for": "key"}, {"for": "other"}]
    write(path, rows)
    assert rows_of(path) == rows


def test_a_journal_without_a_path_keeps_rows_in_memory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Journal() as journal:
        journal.append(ROWS)
        assert journal.rows == ROWS
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_is_cleared_is_empty_and_goes_on(path: Path) -> None:
    with Journal(path, "key") as journal:
        journal.append(ROWS)
        journal.clear()
        assert journal.rows == []
        journal.append(ROWS[1:2])
    assert rows_of(path) == ROWS[1:2]
    assert rows_of(path, "another key") == []
