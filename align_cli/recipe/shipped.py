"""What comes with align beside its code: whole recipes by name, and the versions that it was tested with.

In a checkout both lie at its top; setup.py puts copies into a wheel. Reads them, and never checks one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from align_cli.errors import RecipeError, nearest

PACKAGE = Path(__file__).parent.parent
WHEEL, CHECKOUT = PACKAGE / "shipped", PACKAGE.parent
TESTED = "constraints.txt"
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!Eq\.)\s")
_PAPER = re.compile(r"arXiv:\d{4}\.\d{5}")
_USE = "For "


class About(NamedTuple):
    """What the comment at the top of a file of YAML says.

    Args:
        summary: its first sentence.
        papers: those that it names, in their order.
        use: for what to take it; empty where it does not say.
    """

    summary: str
    papers: list[str]
    use: str


def recipe_names() -> list[str]:
    """The recipes that come with align, in alphabetical order."""
    return sorted(path.stem for path in _recipes().glob("*.yaml"))


def recipe_text(name: str) -> str:
    """A recipe that comes with align, to the letter.

    Raises:
        RecipeError: if there is none of this name.
    """
    check_known(name, recipe_names(), "recipe")
    return (_recipes() / f"{name}.yaml").read_text(encoding="utf-8")


def check_known(name: str, known: list[str], what: str) -> None:
    """Refuse the name of what does not come with align.

    Raises:
        RecipeError: with the nearest name, or all of them.
    """
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
        raise RecipeError(f"no {what} of this name comes with align", where=name, hint=hint)


def about(text: str) -> About:
    """What the comment at the top of a recipe or a preset says."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    uses = [line.removeprefix(_USE).rstrip(".") for line in lines if line.startswith(_USE)]
    told = " ".join(line for line in lines if not line.startswith(_USE))
    summary = _SENTENCE_END.split(told, maxsplit=1)[0]
    return About(summary, list(dict.fromkeys(_PAPER.findall(told))), uses[0] if uses else "")


def versions_tested() -> dict[str, str]:
    """The version of each package that the tests ran with, by its name in small letters; empty where they are lost."""
    place = (WHEEL if WHEEL.is_dir() else CHECKOUT) / TESTED
    lines = place.read_text(encoding="utf-8").splitlines() if place.is_file() else []
    pins = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip().lower(): version.strip() for name, _, version in pins}


def _recipes() -> Path:
    return WHEEL if WHEEL.is_dir() else CHECKOUT / "recipes"
