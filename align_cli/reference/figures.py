"""The page of figures: what each number means that a run writes down, with its unit and range, out of `figures.yaml`.

A figure is a dotted path of keys; `<source>` and its like stand for a name of the recipe's or of the data's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from align_cli.report.tables import TextTable, markdown

INTRODUCTION = """# Every figure

Made from the code by `make docs`. A path leads through the keys of a JSON object; `<name>` stands for any name.
Log-probabilities and KL are in nats. What is read off these figures stands in [report.md](report.md), their derivation
in [method.md](method.md).
"""
COLUMNS = ["figure", "unit", "range", "what it is"]
_NULL_BELOW = "reward", "preferences"
"""Objects of which each may be null as a whole."""


class Place(NamedTuple):
    """Where figures stand together.

    Args:
        introduction: what stands before the table.
        figures: unit, range and definition, by path.
    """

    introduction: str
    figures: Mapping[str, tuple[str, str, str]]


@cache
def places() -> dict[str, Place]:
    """Every figure, by the title of its place."""
    written = yaml.safe_load((Path(__file__).parent / "figures.yaml").read_text(encoding="utf-8"))
    return {
        title: Place(one["introduction"], {path: tuple(said) for path, said in one["figures"].items()})
        for title, one in written.items()
    }


def figures_page() -> str:
    """The page `docs/figures.md`."""
    return "\n".join([INTRODUCTION, *(_section(title, one) for title, one in places().items())])


def unknown_figures(title: str, values: Mapping[str, Any]) -> list[str]:
    """The paths of an object's values that no figure of a place describes.

    Args:
        title: the place's.
        values: the object.
    """
    patterns = [re.compile(re.sub(r"<\w+>", ".+", re.escape(path))) for path in places()[title].figures]
    paths = [path for path in _paths(values) if path not in _NULL_BELOW]
    return [path for path in paths if not any(pattern.fullmatch(path) for pattern in patterns)]


def _paths(values: Mapping[str, Any], below: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{below}{name}.")
        else:
            yield f"{below}{name}"


def _section(title: str, one: Place) -> str:
    rows = [[f"`{path}`", *said] for path, said in one.figures.items()]
    return f"## {title}\n\n{one.introduction}\n\n{markdown(TextTable(COLUMNS, rows))}\n"
