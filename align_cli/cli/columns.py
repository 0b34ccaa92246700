"""Answers side by side on a terminal, while they grow: their latest lines as many as it has, all of them at the end."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from align_cli.cli.shown import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NARROWEST = 48
"""Characters of a column in which text can be read."""
AROUND = 4
"""Lines of the terminal beside those of the answers: the headings, their rule, and what was typed."""


class Columns:
    """One column a title.

    Args:
        titles: of the columns.
        console: the terminal.
    """

    def __init__(self, titles: Sequence[str], console: Console) -> None:
        from rich.live import Live

        self._titles, self._console = titles, console
        self._texts = [""] * len(titles)
        # It draws when it is told to: what other threads print is no answer.
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    @staticmethod
    def fit(number: int, width: int) -> bool:
        """Whether a terminal of this width has room for so many columns."""
        return number > 1 and width >= number * (NARROWEST + 2)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(self._table(None))
        self._live.stop()

    def add(self, column: int, text: str) -> None:
        """An answer goes on."""
        self._texts[column] += visible(text)
        self._live.update(self._table(max(self._console.height - AROUND, 1)), refresh=True)

    def _table(self, most_lines: int | None) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        width = self._console.width // len(self._titles) - 2
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
        for title in self._titles:
            table.add_column(Text(visible(title)), width=width, overflow="fold")
        wrapped = [Text(text.expandtabs(4)).wrap(self._console, width, overflow="fold") for text in self._texts]
        table.add_row(*(Text("\n").join(lines[-most_lines:] if most_lines else lines) for lines in wrapped))
        return table
