"""The lowest versions that are tried are those that the package asks for, and Python's first ones are heeded."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRIED_BY_HAND = {"torch"}
POSSESSIVE_GROUP = re.compile(r"(?<!\\)\)(?:[*+?]|\{[0-9,]+\})\+")


def asked_for() -> dict[str, str]:
    """The lower bound of every requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in project["dependencies"])  # type: ignore[union-attr]


def pinned() -> dict[str, str]:
    """What the oldest environment is made of."""
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_requirement_is_among_the_oldest() -> None:
    assert asked_for().keys() == pinned().keys()


@pytest.mark.parametrize("name", sorted(asked_for().keys() - TRIED_BY_HAND))
def test_the_oldest_version_is_the_lower_bound(name: str) -> None:
    bound, version = (text.split(".") for text in (asked_for()[name], pinned()[name]))
    assert version == bound + ["0"] * (len(version) - len(bound))


def test_no_pattern_repeats_a_group_possessively() -> None:
    """Python before 3.11.5, which Debian 12 has, then matches too much; an atomic group says the same and is sound."""
    files = sorted((ROOT / "align_cli").rglob("*.py"))
    assert [path.name for path in files if POSSESSIVE_GROUP.search(path.read_text(encoding="utf-8"))] == []
