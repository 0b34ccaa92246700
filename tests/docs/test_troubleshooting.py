"""The page on what goes wrong quotes what align says, word for word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest
from pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
ANYTHING = "…"
FEWEST_LETTERS = 10
"""Of a message's own words, by which it is known."""


def quoted() -> list[str]:
    """The messages in the first columns of the page's tables: code that is a sentence and no command or key."""
    cells = re.findall(r"^\| ([^|]*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    return [span for span in spans if " " in span and not span.startswith("align ")]


@cache
def messages() -> list[str]:
    """Every text in the code; what is filled in stands as a zero byte."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "align_cli").rglob("*.py"))
    return [text for tree in trees for text in _texts(tree)]


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def is_said(message: str) -> bool:
    """Whether all of a message's words stand in one text of the code, in their order."""
    parts = [part.strip() for part in message.split(ANYTHING) if part.strip()]
    wanted = re.compile(".*".join(map(_pattern, parts)), re.DOTALL)
    return any(wanted.search(text) for text in messages())


def _pattern(words: str) -> str:
    """A quoted name may be filled in."""
    return re.sub(r"'\\?\w+'", r"(?:'\\w+'|\0|'\0')", re.escape(words))


def test_the_page_quotes_messages() -> None:
    assert len(quoted()) > 20
    assert not is_said("the moon is in the wrong house"), "this test can fail"


@pytest.mark.parametrize("message", quoted())
def test_a_message_that_the_page_quotes_is_one_of_aligns(message: str) -> None:
    assert sum(map(str.isalpha, message)) >= FEWEST_LETTERS
    assert is_said(message)
