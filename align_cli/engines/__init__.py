"""Engines: what generates text. Each takes token ids with seeds and gives token ids with log-probabilities.

A new engine is one file here, one line in `recipe/sections/generate.py`, and one test.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

from align_cli.engines.base import Engine
from align_cli.recipe import Recipe
from align_cli.recipe.sections.generate import ENGINES

Place = Callable[[], Path | None]


def build_engine(
    recipe: Recipe, note: Callable[[str], None] = lambda text: None, place: Place = lambda: None
) -> Engine:
    """The engine that a recipe names.

    Args:
        recipe: the whole recipe.
        note: told about trouble that the engine could help itself out of.
        place: the folder for what others have to read, and for their logs; None where there is no run.
    """
    engine: Engine = resolve_name(ENGINES[recipe.generate.engine])(recipe, note, place)
    return engine
