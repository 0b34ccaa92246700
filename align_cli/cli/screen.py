"""What changes while somebody looks: in one place of a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from align_cli.cli.shown import drawn, fits, visible
from align_cli.redaction import without_secrets

if TYPE_CHECKING:
    from rich.console import Console

    from align_cli.report.tables import TextTable

SECONDS_BETWEEN_LINES = 30.0
ROOM_FOR_MORE = 4
"""Lines of a terminal that a table leaves to its heading and its rules."""


class Lines:
    """For what is no terminal: all lines as one, at most every half minute; no tables.

    Args:
        write: takes a line.
        seconds_between: lines are at least so far apart.
    """

    def __init__(self, write: Callable[[str], None], seconds_between: float = SECONDS_BETWEEN_LINES) -> None:
        self._write, self._seconds_between = write, seconds_between
        self._last: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left open."""

    def show(self, lines: Sequence[str], table: TextTable) -> None:
        """How things stand now."""
        now = time.monotonic()
        if self._last is None or now - self._last >= self._seconds_between:
            self._last = now
            self._write("; ".join(lines))


class Screen(Lines):
    """For a terminal: what is shown takes the place of what was, and goes at the end.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        super().__init__(console.print, 0.0)
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, lines: Sequence[str], table: TextTable) -> None:
        """How things stand now: the lines, and as many of the table's last rows as there is room for."""
        from rich.console import Group
        from rich.text import Text

        texts = [Text(visible(without_secrets(line))) for line in lines]
        room = max(self._console.height - len(lines) - ROOM_FOR_MORE, 1)
        table = table._replace(rows=table.rows[-room:])
        if not fits(table, self._console):
            table = table._replace(rows=table.rows[-1:])
        self._live.update(Group(*texts, drawn(table, self._console)) if table.rows else Group(*texts), refresh=True)
