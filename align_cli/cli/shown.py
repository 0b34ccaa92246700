"""What is shown, made fit for who looks: a terminal that would obey, one that is narrow, one that has ASCII alone.

Pure: texts and tables in, texts out. `output` and `reporters` print them.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from align_cli.report.tables import TextTable

LOOK_ALIKES = "look-alikes"
"""The error handler of codecs for text that people read: what an encoding lacks becomes what looks like it, or an
escape. JSON has escapes of its own: `json_in`."""

UNBOUNDED = 1_000_000
"""Columns; no terminal has as many."""

_LOOK_ALIKES = {
    "–": "-", "—": "-", "−": "-", "±": "+-", "×": "x", "·": ".", "…": "...", "→": "->", "≥": ">=", "≤": "<=",
    "β": "beta", "π": "pi", "θ": "theta", "‘": "'", "’": "'", "“": '"', "”": '"',
    "│": "|", "┃": "|", "─": "-", "━": "-", "═": "=", "•": "*",
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╯╰╷╵╸╺╡╞╪┏┓┗┛", "+"),
}  # fmt: skip


def _with_look_alikes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_LOOK_ALIKES.get(character) or _escaped(character) for character in lacking), error.end


codecs.register_error(LOOK_ALIKES, _with_look_alikes)


def visible(text: str) -> str:
    """The text with all that a terminal would obey shown as escapes; our own line breaks and tabs stay.

    Control characters, those that reverse or hide text (U+202E, U+200B) and the separators that some terminals break
    lines at (U+2028): whatever Unicode does not call printable.
    """
    return "".join(
        character if character in "\n\t" or character.isprintable() else _escaped(character) for character in text
    )


def visible_json(text: str) -> str:
    """The same for a JSON text, which stays one of the same value: there `\\u` has four digits."""
    return "".join(
        character if character == "\n" or character.isprintable() else json.dumps(character)[1:-1] for character in text
    )


def json_in(text: str, encoding: str) -> str:
    """A JSON text that any reader takes, whatever this encoding is: in UTF-8 as it is, in others ASCII with escapes."""
    if codecs.lookup(encoding).name == "utf-8":
        return text
    return "".join(character if character.isascii() else json.dumps(character)[1:-1] for character in text)


def drawn(table: TextTable, console: Console) -> RenderableType:
    """A table for this console: rows and columns where they fit its width, else as many columns at a time as do, each
    time behind the first one; one figure a line where there is one row, or not even two columns fit.
    """
    from rich.console import Group
    from rich.text import Text

    if fits(table, console):
        return _in_columns(table)
    pieces = _pieces(table, console) if len(table.rows) > 1 else []
    if pieces:
        return Group(*map(_in_columns, pieces))
    lines = []
    for first, *others in table.rows:
        lines.append(f"{_one_line(table.columns[0])} {_one_line(first)}")
        figures = zip(table.columns[1:], others, strict=True)
        lines += [f"  {_one_line(name)} {_one_line(cell)}" for name, cell in figures if cell]
    return Text("\n".join(lines), overflow="fold")


def _pieces(table: TextTable, console: Console) -> list[TextTable]:
    """A table cut between columns, so that each piece fits; none where one would not."""
    pieces, shown = [], [0]
    for column in range(1, len(table.columns)):
        if len(shown) > 1 and not fits(_columns_of(table, [*shown, column]), console):
            pieces.append(_columns_of(table, shown))
            shown = [0]
        shown.append(column)
    pieces.append(_columns_of(table, shown))
    return pieces if all(fits(piece, console) for piece in pieces) else []


def _columns_of(table: TextTable, wanted: Sequence[int]) -> TextTable:
    return table._replace(
        columns=[table.columns[column] for column in wanted],
        rows=[[row[column] for column in wanted] for row in table.rows],
    )


def fits(table: TextTable, console: Console) -> bool:
    """Whether all of a table's columns fit on a console side by side."""
    unbounded = console.options.update(max_width=UNBOUNDED)
    return console.measure(_in_columns(table), options=unbounded).maximum <= console.width


def _in_columns(table: TextTable) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    whole = Table(box=box.SIMPLE_HEAD)
    for column in table.columns:
        whole.add_column(Text(_one_line(column)), justify="right", no_wrap=True)
    for row in table.rows:
        whole.add_row(*(Text(_one_line(cell)) for cell in row))
    return whole


def _one_line(cell: str) -> str:
    """A cell's text, which must not look like further rows."""
    return visible(cell).replace("\n", "\\n").replace("\t", "\\t")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
