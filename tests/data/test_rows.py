"""The rows of a source: read from a file when they are asked for, and remembered for the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_cli.artifacts import remembered
from align_cli.data import lines
from align_cli.data.lines import Lines
from align_cli.data.rows import AsChat, Row, Rows, facts_of

CHAT = [{"role": "user", "content": "why?"}]
MADE = [
    Row(
        {"prompt": "p\u2028\x85", "chosen": " a", "rejected": " b", "label": 0.5}, "r.jsonl:1", "pairs", AsChat([], {})
    ),
    Row({"prompt": CHAT, "chosen": CHAT, "rejected": CHAT, "label": 0.25}, "r.jsonl:3", "pairs", made_of="transcripts"),
    Row({"prompt": CHAT, "chat_template_kwargs": {"tone": "soft"}, "tools": [{"name": "add"}]}, "\udcff:4"),
]


def all_of(row: Row) -> tuple[object, ...]:
    return dict(row), list(row), row.where, row.name, row.chat, row.made_of


@pytest.mark.parametrize("most_in_memory", [1, 1 << 20])
def test_rows_are_what_was_put_in_wherever_they_lie(monkeypatch: pytest.MonkeyPatch, most_in_memory: int) -> None:
    monkeypatch.setattr(lines, "IN_MEMORY_BYTES", most_in_memory)
    rows = Rows(iter(MADE), {"ties": 2})
    assert [all_of(row) for row in rows] == list(map(all_of, MADE))
    assert [all_of(rows[place]) for place in (2, 0, -2)] == [all_of(MADE[place]) for place in (2, 0, -2)]
    assert rows == MADE and rows == MADE and rows != MADE[:2] and rows[1:] == MADE[1:]
    assert (len(rows), rows.dropped) == (3, {"ties": 2})
    with pytest.raises(IndexError):
        rows[3]


def test_what_is_known_of_all_rows_is_the_same_for_a_list() -> None:
    facts = Rows(MADE).facts
    assert facts == facts_of(MADE)
    assert (facts.texts, facts.chats, facts.first_text, facts.first_chat) == (1, 2, 0, 1)
    assert (facts.made_of, facts.for_template) == ({"transcripts": 1}, {"tools": 2, "tone": 2})
    assert (facts.ties, facts.uncertain) == (1, 1)


def test_an_iterator_counts_what_it_leaves_out_before_that_is_looked_at() -> None:
    dropped: dict[str, int] = {}

    def reading() -> object:
        yield MADE[0]
        dropped["no pair"] = 1

    assert Rows(reading(), dropped).dropped == {"no pair": 1}  # type: ignore[arg-type]


class TestRemembering:
    @pytest.fixture(autouse=True)
    def caches(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return tmp_path / "align"

    def kept(self) -> tuple[str, Rows]:
        key, rows = remembered.key_of("some rows"), Rows(MADE, {"ties": 2})
        rows.keep(key)
        return key, rows

    def test_rows_that_were_kept_are_the_same_rows(self) -> None:
        key, rows = self.kept()
        found = Rows.recalled(key)
        assert found is not None
        assert [all_of(row) for row in found] == list(map(all_of, MADE))
        assert (found.facts, found.dropped, found.identity) == (rows.facts, {"ties": 2}, key) != (None, None, None)
        assert rows.identity == key

    def test_rows_of_which_a_byte_is_missing_or_another_are_none(self, caches: Path) -> None:
        key, _ = self.kept()
        path = caches / f"{key}.rows"
        whole = path.read_bytes()
        for damaged in (b"", whole[:-1], whole + b"\n", whole.replace(b"soft", b"sofa")):
            path.write_bytes(damaged)
            assert Rows.recalled(key) is None
        path.unlink()
        assert Rows.recalled(key) is None

    def test_a_kill_between_the_rows_and_what_is_said_of_them_leaves_nothing(self, caches: Path) -> None:
        key, _ = self.kept()
        (caches / f"{key}.json").unlink()
        assert Rows.recalled(key) is None

    def test_lines_longer_than_a_block_are_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lines, "BLOCK_BYTES", 7)
        texts = [b"", b"a", b"0123456789" * 3, b"", b"z"]
        digest = Lines(texts).keep(tmp_path / "lines")
        found = Lines.opened(tmp_path / "lines", digest)
        assert found is not None
        assert [found[number] for number in range(len(found))] == texts

    def test_a_folder_that_cannot_be_written_to_remembers_nothing_and_is_no_fault(self, caches: Path) -> None:
        caches.write_text("a file where the folder should be")
        key, rows = self.kept()
        assert rows.identity is None and rows == MADE
        assert Rows.recalled(key) is None
