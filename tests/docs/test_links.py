"""What the documentation points to is there: files, headings, pictures; and every page is reached from the first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, anchors, blocks, links, named

from align_cli.recipe.presets import preset_names
from align_cli.recipe.sections.guards import GuardsSection

INDEX = ROOT / "docs" / "README.md"


def of_the_repository(page: Path) -> list[str]:
    """The links of a page that stay in the repository."""
    return [link for link in links(page) if "://" not in link and not link.startswith("mailto:")]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_of_a_page_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    broken = []
    for link in of_the_repository(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        is_within = target.is_relative_to(ROOT.resolve())
        if not is_within or not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?<![\w/])((?:tests|benchmarks|align_cli|recipes|docs)/[\w./*-]+\w)", text)
    of_its_own = {block.text.partition("\n")[0].removeprefix("# ") for block in blocks(page)}
    assert [name for name in found if name not in of_its_own and not list(ROOT.glob(name))] == []


def test_every_page_is_in_the_index() -> None:
    linked = {link.partition("#")[0] for link in of_the_repository(INDEX)}
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page != INDEX and page.name not in linked] == []


def test_every_preset_and_every_guard_has_its_place() -> None:
    presets = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    assert [name for name in preset_names() if f"`{name}`" not in presets] == []
    reliability = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [name for name in GuardsSection.model_fields if f"| `{name}` |" not in reliability] == []
