"""Pairs as a table: what spreadsheets make of it and what people do to it; all faults are told at once."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from align_cli.errors import AlignError, DataError
from align_cli.labelers.person_csv import COLUMNS, read_verdicts, write_pairs
from align_cli.labelers.verdicts import Pair

PAIRS = [Pair.of(f"prompt {number}", f"answer a{number}", f"answer b{number}") for number in range(6)]
ODD = [
    Pair.of("=1+1", "+cmd|' /C calc'!A0", "-2"),
    Pair.of("@SUM(A1)", "\t=1", "'=already quoted"),
    Pair.of('commas, "quotes"; semicolons', "two\nlines\r\nand\rmore", ""),
    Pair.of("北京 🏯 עברית", "\x1b[31mred\x00", "half a pair \ud800"),
    Pair.of("wide", "＝1", "  spaces  "),
    Pair.of("nearly the same", "=1", "'=1"),
]

Rows = list[dict[str, str]]
Fill = Callable[..., Path]


def rows_of(path: Path) -> Rows:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """`fill(pairs, change)`: an exported file whose rows somebody has changed; its path."""

    def filled(pairs: list[Pair], change: Callable[[Rows], Rows | None], delimiter: str = ",") -> Path:
        path = tmp_path / "pairs.csv"
        path.unlink(missing_ok=True)
        write_pairs(path, pairs, "ann")
        rows = rows_of(path)
        rows = change(rows) or rows
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
        return path

    return filled


def say(*verdicts: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for row, verdict in zip(rows, verdicts, strict=False):
            row["verdict"] = verdict

    return change


def faults_of(path: Path, pairs: list[Pair] = PAIRS) -> list[tuple[str, str]]:
    with pytest.raises(DataError) as caught:
        read_verdicts(path, pairs)
    return [(fault.where.removeprefix(str(path)), fault.what) for fault in caught.value.faults]


def test_it_opens_in_a_spreadsheet_and_nothing_in_it_is_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    assert write_pairs(path, ODD, "ann") == 0
    assert path.read_bytes().startswith(b"\xef\xbb\xbfid,prompt,left,right,verdict\r\n")
    rows = rows_of(path)
    assert [tuple(row) for row in rows] == [COLUMNS] * len(ODD)
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))]
    assert not [cell for cell in cells if "\r" in cell or "\x1b" in cell or "\x00" in cell]
    assert "two\nlines\nand\nmore" in cells
    assert "\\x1b[31mred\\x00" in cells
    assert {row["verdict"] for row in rows} == {""}


def test_sides_are_those_that_the_annotator_would_see_at_the_terminal(tmp_path: Path) -> None:
    for annotator in ("ann", "bob"):
        write_pairs(tmp_path / f"{annotator}.csv", PAIRS, annotator)
        lefts = [row["left"] for row in rows_of(tmp_path / f"{annotator}.csv")]
        assert lefts == [pair.answer(pair.sides(annotator)[0]) for pair in PAIRS]


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("somebody's work", encoding="utf-8")
    with pytest.raises(AlignError, match="this is there already"):
        write_pairs(path, PAIRS, "ann")
    assert path.read_text(encoding="utf-8") == "somebody's work"


def test_texts_that_excel_would_cut_are_counted(tmp_path: Path) -> None:
    long = [Pair.of("p", "a" * 32_767, "b" * 32_768), PAIRS[0]]
    assert write_pairs(tmp_path / "pairs.csv", long, "ann") == 1


@pytest.mark.parametrize("verdict", ["left", "Left ", " LEFT", "l", "L", "1"])
def test_verdicts_are_words_letters_or_numbers_in_any_case(verdict: str, fill: Fill) -> None:
    path = fill(PAIRS, say(verdict))
    assert read_verdicts(path, PAIRS).said == {PAIRS[0]: (PAIRS[0].sides("ann")[0], PAIRS[0].sides("ann")[0])}


def test_each_verdict_means_what_it_says_for_any_text(fill: Fill) -> None:
    path = fill([*ODD, *PAIRS], say("left", "r", "T", "skip", "2", "1", "2"))
    said = read_verdicts(path, [*ODD, *PAIRS]).said
    lefts = [pair.sides("ann")[0] for pair in (*ODD, PAIRS[0])]
    rights = [pair.sides("ann")[1] for pair in (*ODD, PAIRS[0])]
    wanted = [lefts[0], rights[1], "tie", "skip", rights[4], lefts[5], rights[6]]
    assert [word for word, _ in said.values()] == wanted
    assert [left for _, left in said.values()] == lefts


def test_rows_may_be_moved_columns_too_and_more_of_them_added(fill: Fill) -> None:
    straight = read_verdicts(fill(PAIRS, say("left", "right", "tie")), PAIRS)

    def shuffle(rows: Rows) -> Rows:
        say("left", "right", "tie")(rows)
        random.Random(0).shuffle(rows)
        return [{"note": "mine", "Verdict": row["verdict"], "RIGHT": row["right"], **_upper(row)} for row in rows]

    moved = read_verdicts(fill(PAIRS, shuffle), PAIRS)
    assert moved.said == straight.said
    assert moved.num_empty == straight.num_empty == 3


def _upper(row: dict[str, str]) -> dict[str, str]:
    return {" Id ": row["id"], "Prompt": row["prompt"], "left": row["left"]}


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_spreadsheets_of_other_languages_write_other_separators(delimiter: str, fill: Fill) -> None:
    found = read_verdicts(fill([*ODD, *PAIRS], say(*["left"] * 12), delimiter), [*ODD, *PAIRS])
    assert len(found.said) == 12


def test_what_a_spreadsheet_does_to_line_ends_and_apostrophes_changes_no_text(fill: Fill) -> None:
    def saved_again(rows: Rows) -> None:
        for row in rows:
            row["verdict"] = "left"
            for name in ("prompt", "left", "right"):
                row[name] = row[name].removeprefix("'").replace("\n", "\r\n")

    told_apart = ODD[:-1]
    assert len(read_verdicts(fill(told_apart, saved_again), told_apart).said) == len(told_apart)


def test_it_may_be_utf_16(fill: Fill) -> None:
    path = fill(ODD, say("left"), "\t")
    path.write_bytes(path.read_text(encoding="utf-8-sig").encode("utf-16"))
    assert len(read_verdicts(path, ODD).said) == 1


def test_missing_rows_still_wait(fill: Fill) -> None:
    def shortened(rows: Rows) -> Rows:
        say("left")(rows)
        return rows[:2]

    found = read_verdicts(fill(PAIRS, shortened), PAIRS)
    assert list(found.said) == PAIRS[:1]
    assert (found.num_empty, dict(found.counts)) == (1, {"left": 1})


def test_a_row_twice_with_one_verdict_is_fine(fill: Fill) -> None:
    def doubled(rows: Rows) -> Rows:
        say("left", "right")(rows)
        return [*rows, {**rows[0], "verdict": "L"}, {**rows[1], "verdict": ""}]

    found = read_verdicts(fill(PAIRS, doubled), PAIRS)
    assert dict(found.counts) == {"left": 1, "right": 1}
    assert (len(found.said), found.num_empty) == (2, 4)


def test_a_row_twice_with_two_verdicts_names_both_lines(fill: Fill) -> None:
    def doubled(rows: Rows) -> Rows:
        say("left")(rows)
        return [*rows, {**rows[0], "verdict": "right"}]

    assert faults_of(fill(PAIRS, doubled)) == [(":8", "the verdict on this pair is right here, and left in line 2")]


def test_lines_are_counted_as_an_editor_counts_them(fill: Fill) -> None:
    first = Pair.of("p", "one\ntwo\nthree", "four\nfive")
    (fault, _) = faults_of(fill([first, *PAIRS], say("left", "lft", "nonsense")), [first, *PAIRS])
    assert fault == (":6", "the verdict is 'lft'; it must be left, right, tie or skip")


def test_every_fault_is_told_at_once(fill: Fill) -> None:
    def wreck(rows: Rows) -> None:
        say("left", "first", "tie", "left", "right", "right")(rows)
        rows[1]["id"] = "pair-0000000000000000"
        rows[2]["prompt"] += "?"
        rows[3]["left"] = "something else"
        rows[4]["left"] = rows[4]["right"]

    path = fill(PAIRS, wreck)
    assert faults_of(path) == [
        (":3", "the verdict is 'first'; it must be left, right, tie or skip"),
        (":3", "the id 'pair-0000000000000000' is of no pair of these completions"),
        (":4", "the text of prompt is not what was exported, so that the verdict may not hold"),
        (":5", "the text of left is not what was exported, so that the verdict may not hold"),
        (":6", "the text of left and right is not what was exported, so that the verdict may not hold"),
    ]


def test_a_missing_column_is_named(fill: Fill) -> None:
    path = fill(PAIRS, lambda rows: [{"id": row["id"], "left": row["left"]} for row in rows])
    assert [what for _, what in faults_of(path)] == [
        f"there is no column {name!r}" for name in ("prompt", "right", "verdict")
    ]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "there is no column 'id'"),
        ("id,prompt,left,right,verdict\nä".encode("latin-1"), "it is not UTF-8 (byte 29)"),
        (b"id,prompt,left,right,verdict,verdict\n", "there are two columns 'verdict'"),
        (b'id,prompt,left,right,verdict\nx,"never closed\n', "the id 'x' is of no pair of these completions"),
        (b"id,prompt,left,right,verdict\nx\n", "the id 'x' is of no pair of these completions"),
    ],
    ids=["empty", "latin-1", "column twice", "quote", "short row"],
)  # fmt: skip
def test_what_is_no_such_table_is_told_in_words(data: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(data)
    assert faults_of(path)[0][1] == what


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "none.csv") == [("", "it cannot be read (No such file or directory)")]
