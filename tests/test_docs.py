"""What the documentation points to is there, and every preset has its place in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from align_cli.recipe.presets import preset_names
from align_cli.recipe.sections.guards import GuardsSection

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"\b((?:tests|benchmarks|align_cli|recipes|docs)/[\w./*-]+\w)", text)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_preset_and_every_guard_has_its_place() -> None:
    presets = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    assert [name for name in preset_names() if f"`{name}`" not in presets] == []
    reliability = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [name for name in GuardsSection.model_fields if f"| `{name}` |" not in reliability] == []
