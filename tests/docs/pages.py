"""The pages that people read, taken apart by a Markdown parser: blocks of code, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def named(page: Path) -> str:
    """A page's name, as tests call it."""
    return page.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    """A fenced block of code.

    Args:
        page: its file.
        line: of the page, from 1, on which its fence stands.
        language: what stands behind the fence; empty where nothing does.
        text: what it holds.
    """

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{named(self.page)}:{self.line}"


@cache
def blocks(page: Path) -> list[Block]:
    """The blocks of code of a page, in their order."""
    return [
        Block(page, (token.map or [0])[0] + 1, token.info.strip(), token.content)
        for token in _tokens(page)
        if token.type == "fence"
    ]


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead."""
    return [
        str(token.attrs.get("href") or token.attrs.get("src"))
        for token in _inline(page)
        if token.type in ("link_open", "image")
    ]


def code_spans(page: Path) -> list[str]:
    """Code within a page's sentences, a line break in it being a space."""
    return [" ".join(token.content.split()) for token in _inline(page) if token.type == "code_inline"]


@cache
def anchors(page: Path) -> set[str]:
    """The names by which the headings of a page can be linked to, as GitHub makes them; a second one has -1."""
    found: dict[str, int] = {}
    names = set()
    tokens = _tokens(page)
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            name = _slug("".join(child.content for child in tokens[place + 1].children or []))
            names.add(f"{name}-{found[name]}" if name in found else name)
            found[name] = found.get(name, 0) + 1
    return names


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _inline(page: Path) -> Iterator[Token]:
    for token in _tokens(page):
        yield from token.children or []


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
