"""Pairs as a CSV file that opens in a spreadsheet, and the verdicts that somebody has written into it.

A row is a pair: `id, prompt, left, right, verdict`. Rows may be moved and columns added; spreadsheets may write other
separators and line ends. Which answer stood left is seen from the texts. A file is taken as a whole: where anything in
it is wrong, nothing of it counts.

What a spreadsheet would not hold or would obey is written otherwise: control characters as escapes, line ends as line
feeds, and an apostrophe stands before a text that begins as a formula does.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from align_cli.artifacts.files import write_text
from align_cli.errors import AlignError, DataError, Fault, error_of_rows, nearest
from align_cli.labelers.verdicts import Pair, Said

SIDES = ("left", "right")
COLUMNS = ("id", "prompt", *SIDES, "verdict")
MARK = "\ufeff"
"""At the beginning of a file it says UTF-8 to spreadsheets."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "＝", "＋", "－", "＠", "'")
"""The wide ones are obeyed too; and what begins with an apostrophe gets another one, so that no two texts are alike."""
LONGEST_CELL = 32_767
"""Characters of a cell in Excel, which cuts longer ones."""
LONGEST_FIELD = 2**31 - 1

WORDS = {
    **dict.fromkeys(("left", "l", "1"), "left"),
    **dict.fromkeys(("right", "r", "2"), "right"),
    **dict.fromkeys(("tie", "t"), "tie"),
    **dict.fromkeys(("skip", "s"), "skip"),
}
"""What may stand in the column `verdict`, in any case."""


class ReadVerdicts(NamedTuple):
    """What a file says.

    Args:
        said: of the pairs that have a verdict in it; with the answer that stands left.
        counts: of those, by the words `left`, `right`, `tie` and `skip`.
        num_empty: pairs that have rows, and no verdict in any.
    """

    said: dict[Pair, tuple[Said, Said]]
    counts: Counter[str]
    num_empty: int


def write_pairs(path: Path, pairs: Sequence[Pair], annotator: str) -> int:
    """Write pairs into a new file, each with an empty verdict.

    Args:
        path: the file.
        pairs: in the order of its rows.
        annotator: for whom: it decides which answer stands left.

    Returns:
        How many texts are longer than what Excel holds.

    Raises:
        AlignError: if something is there already, which may hold somebody's verdicts.
    """
    if path.exists():
        raise AlignError("this is there already", where=str(path), hint="name another file, or move it away")
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    rows = [_row_of(pair, annotator) for pair in pairs]
    table.writerows(rows)
    write_text(path, MARK + text.getvalue())
    return sum(len(cell) > LONGEST_CELL for row in rows for cell in row)


def read_verdicts(path: Path, pairs: Sequence[Pair]) -> ReadVerdicts:
    """The verdicts in a file, if all of it can be used.

    Args:
        path: the file.
        pairs: those that it may be about.

    Raises:
        DataError: with every fault: columns that lack, ids of other pairs, texts that were changed, words that are no
            verdicts, two verdicts on one pair.
    """
    known = {pair.id: pair for pair in pairs}
    found: dict[str, tuple[str, int]] = {}
    said: dict[Pair, tuple[Said, Said]] = {}
    empty: set[str] = set()
    faults: list[Fault] = []
    for line, row in _rows(path):
        where = f"{path}:{line}"
        word = WORDS.get(row["verdict"].strip().lower(), row["verdict"].strip())
        pair = known.get(row["id"].strip())
        own = _faults_of(row, word, pair)
        if not own and pair is not None and word and found.get(pair.id, (word, 0))[0] != word:
            earlier, earlier_line = found[pair.id]
            what = f"the verdict on this pair is {word} here, and {earlier} in line {earlier_line}"
            own = [(what, "leave one of the two rows")]
        faults += [Fault(what, where, hint) for what, hint in own]
        if own or pair is None:
            continue
        if not word:
            empty.add(pair.id)
            continue
        found.setdefault(pair.id, (word, line))
        said[pair] = _said(word, row, pair)
    if faults:
        raise error_of_rows(faults, str(path))
    return ReadVerdicts(said, Counter(word for word, _ in found.values()), len(empty - found.keys()))


def _row_of(pair: Pair, annotator: str) -> list[str]:
    left, right = pair.sides(annotator)
    return [pair.id, _cell(pair.prompt), _cell(pair.answer(left)), _cell(pair.answer(right)), ""]


def _cell(text: str) -> str:
    kept = "".join(map(_in_a_cell, _with_line_feeds(text)))
    return f"'{kept}" if kept.startswith(FORMULA_STARTS) else kept


def _in_a_cell(character: str) -> str:
    is_lost = character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs")
    return character.encode("unicode_escape").decode() if is_lost else character


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_same(cell: str, text: str) -> bool:
    """Whether a cell still holds a text; some spreadsheets take the apostrophe before a formula's sign away."""
    written = _cell(text)
    return _with_line_feeds(cell) in (written, written[1:] if written.startswith("'") else written)


def _faults_of(row: Mapping[str, str], word: str, pair: Pair | None) -> list[tuple[str, str]]:
    faults = []
    if word and word not in WORDS.values():
        near = nearest(word.lower(), WORDS)
        hint = f"did you mean {WORDS[near]}?" if near else "write left, right, tie or skip, or leave it empty"
        faults.append((f"the verdict is {_shortened(word)}; it must be left, right, tie or skip", hint))
    if pair is None:
        what = f"the id {_shortened(row['id'])} is of no pair of these completions"
        return [*faults, (what, "name the completions that the file was made of with -i, or remove the row")]
    changed = [] if _is_same(row["prompt"], pair.prompt) else ["prompt"]
    if _side_of_first(row, pair) is None:
        foreign = [side for side in SIDES if not any(_is_same(row[side], text) for text in (pair.first, pair.second))]
        changed += foreign or SIDES
    if changed:
        what = f"the text of {' and '.join(changed)} is not what was exported, so that the verdict may not hold"
        faults.append((what, f"restore it from the export; Excel cuts cells at {LONGEST_CELL} characters"))
    return faults


def _side_of_first(row: Mapping[str, str], pair: Pair) -> str | None:
    """On which side the pair's first answer stands; None where the two sides do not hold the two answers."""
    for side, other in (SIDES, SIDES[::-1]):
        if row[side] == _cell(pair.first) and row[other] == _cell(pair.second):
            return side
    for side, other in (SIDES, SIDES[::-1]):
        if _is_same(row[side], pair.first) and _is_same(row[other], pair.second):
            return side
    return None


def _said(word: str, row: Mapping[str, str], pair: Pair) -> tuple[Said, Said]:
    sides: dict[str, Said] = {"left": "first", "right": "second"}
    if _side_of_first(row, pair) == "right":
        sides = {"left": "second", "right": "first"}
    words: dict[str, Said] = {**sides, "tie": "tie", "skip": "skip"}
    return words[word], sides["left"]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows below the heading, by the line that each begins in; blank ones are left out.

    Raises:
        DataError: if it is no such table.
    """
    text = _text_of(path)
    csv.field_size_limit(LONGEST_FIELD)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    try:
        heading = [name.strip().lower() for name in next(table, [])]
        _check_heading(path, heading)
        begin = table.line_num + 1
        for cells in table:
            if any(cell.strip() for cell in cells):
                row = dict(zip(heading, cells, strict=False))
                yield begin, {name: row.get(name, "") for name in COLUMNS}
            begin = table.line_num + 1
    except csv.Error as error:
        hint = "save it as CSV once more"
        raise DataError(f"this is no CSV: {error}", where=f"{path}:{table.line_num}", hint=hint) from None


def _check_heading(path: Path, heading: Sequence[str]) -> None:
    lacking = [name for name in COLUMNS if name not in heading]
    twice = [name for name in COLUMNS if heading.count(name) > 1]
    hint = f"the first row names the columns {', '.join(COLUMNS)}, as the export wrote them"
    faults = [Fault(f"there is no column {name!r}", f"{path}:1", hint) for name in lacking]
    faults += [Fault(f"there are two columns {name!r}", f"{path}:1", hint) for name in twice]
    if faults:
        raise DataError.of(faults)


def _delimiter(text: str) -> str:
    """What separates the columns of the heading: spreadsheets of some languages write semicolons."""
    heading = text.partition("\n")[0]
    return max(",;\t", key=heading.count)


def _text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        what = f"it cannot be read ({error.strerror})"
        raise DataError(what, where=str(path), hint="name the file that was filled in") from None
    try:
        is_wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        return data.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        hint = "save it as CSV in UTF-8 (in Excel: CSV UTF-8)"
        raise DataError(f"it is not UTF-8 (byte {error.start})", where=str(path), hint=hint) from None


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
