"""The reference pages of docs/, made from the code: every key, command, artifact and figure.

`make docs` writes them; a test holds them equal to what the code says. Nothing of `align` at work imports this room.
"""

from __future__ import annotations

from collections.abc import Callable

from align_cli.reference.artifacts import artifacts_page
from align_cli.reference.commands import commands_page
from align_cli.reference.figures import figures_page
from align_cli.report.keys import keys_page

PAGES: dict[str, Callable[[], str]] = {
    "recipe.md": keys_page,
    "commands.md": commands_page,
    "artifacts.md": artifacts_page,
    "figures.md": figures_page,
}
"""What makes each page, by its name in docs/."""
