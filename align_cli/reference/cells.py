"""Tables of Markdown whose cells hold any text."""

from __future__ import annotations

from collections.abc import Sequence

from align_cli.report.tables import TextTable, markdown


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a bar in a cell borders nothing."""
    return markdown(TextTable(list(columns), [[cell.replace("|", "\\|") for cell in row] for row in rows]))
