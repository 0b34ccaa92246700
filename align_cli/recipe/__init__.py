"""Recipes: every YAML key, typed and documented; YAML to a checked Recipe, or to all of its faults.

Loads nothing heavy: no torch, transformers or trl.
"""

from align_cli.recipe.keys import KeyDoc, describe_keys
from align_cli.recipe.load import load_data_section, load_recipe
from align_cli.recipe.recipe import Recipe
from align_cli.recipe.resolve import Difference, differences, dump, resolved, to_yaml
from align_cli.recipe.rules import code_that_runs, warnings_for

__all__ = [
    "Difference",
    "KeyDoc",
    "Recipe",
    "code_that_runs",
    "describe_keys",
    "differences",
    "dump",
    "load_data_section",
    "load_recipe",
    "resolved",
    "to_yaml",
    "warnings_for",
]
