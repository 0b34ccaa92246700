"""The page of recipe keys is the schema's."""

from __future__ import annotations

from pathlib import Path

from align_cli.recipe import describe_keys
from align_cli.recipe.sections.labelers import LABELER_KINDS
from align_cli.report.keys import keys_page

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_page_in_the_docs_is_up_to_date() -> None:
    """`make docs` writes it."""
    assert PAGE.read_text(encoding="utf-8") == keys_page()


def test_every_key_has_a_row_of_five_cells() -> None:
    rows = [line for line in keys_page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [key.path for key in describe_keys()]
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)


def test_a_key_of_labelers_says_of_which_kinds_it_is_and_what_it_is_for_in_each() -> None:
    rows: dict[str, list[list[str]]] = {}
    for line in keys_page().splitlines():
        if line.startswith("| `labelers.<name>."):
            key, *cells = (cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|"))
            rows.setdefault(key.strip("`").removeprefix("labelers.<name>."), []).append(cells)
    assert [cells[-1] for cells in rows["kind"]] == ["what gives the labels"]
    assert [cells[-1] for cells in rows["model"]] == [
        "of kind judge and reward_server: the name under which the server has the model"
    ]
    assert [(cells[2], cells[-1].partition(":")[0]) for cells in rows["template"]] == [
        ("pairwise", "of kind judge"),
        ("additive", "of kind self_judge"),
    ]
    for name, kind in LABELER_KINDS.items():
        for key in kind.section.model_fields.keys() - {"kind"}:
            of_this = [cells for cells in rows[key] if name in cells[-1].partition(":")[0].split()]
            assert len(of_this) == 1, (name, key)


def test_keys_of_other_sections_say_of_no_kind() -> None:
    assert all(not key.kinds for key in describe_keys() if not key.path.startswith("labelers.<name>."))
