"""The page of recipe keys is the schema's."""

from __future__ import annotations

from pathlib import Path

from align_cli.recipe import describe_keys
from align_cli.report.keys import keys_page

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_page_in_the_docs_is_up_to_date() -> None:
    """`make docs` writes it."""
    assert PAGE.read_text(encoding="utf-8") == keys_page()


def test_every_key_has_a_row_of_five_cells() -> None:
    rows = [line for line in keys_page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [key.path for key in describe_keys()]
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)
