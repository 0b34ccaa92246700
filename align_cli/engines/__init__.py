"""Engines: what generates text. Each takes token ids with seeds and gives token ids with log-probabilities.

A new engine is one file here, one line in `recipe/sections/generate.py`, and one test.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

from align_cli.engines.base import Engine
from align_cli.recipe.sections.generate import ENGINES, GenerateSection


def build_engine(section: GenerateSection, note: Callable[[str], None] = lambda text: None) -> Engine:
    """The engine that a recipe names.

    Args:
        section: the recipe's `generate`.
        note: told about trouble that the engine could help itself out of.
    """
    engine: Engine = resolve_name(ENGINES[section.engine])(section.batch_size, note)
    return engine
