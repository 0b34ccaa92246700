"""A checked recipe, from values left to align to values written out; and the recipe as plain data, text and difference.

Called by `load` when a recipe is sound, and by whoever keeps or compares recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from align_cli.recipe.recipe import Recipe
from align_cli.recipe.sections import data, evaluate, label, method, reward
from align_cli.recipe.written.scalars import read_number


@dataclass(frozen=True)
class Difference:
    """A key whose value differs between two resolved recipes; None where one lacks it."""

    key: str
    old: Any
    new: Any


def with_automatic_values(recipe: Recipe) -> Recipe:
    """The recipe with every value set that align chooses by other keys."""
    sections = {
        "evaluate": evaluate.with_automatic_values(recipe.evaluate),
        "data": data.with_automatic_values(recipe.data),
        "reward": reward.with_automatic_values(recipe.reward, recipe.data),
        "label": label.with_automatic_values(recipe.label, recipe.method.at_its_most()),
        "method": method.with_automatic_values(recipe.method, recipe.train.replay_rounds, recipe.generate.rounds_ahead),
    }
    return recipe.model_copy(update=sections)


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data in the schema's order, defaults, automatic values and schedules included.

    Keys of `train` and `reward` that pass through come last, by name.
    """
    tree: dict[str, Any] = with_automatic_values(recipe).model_dump(mode="python")
    for key, values in recipe.method.schedule.items():
        *sections, name = key.split(".")
        section_tree = tree["method"]
        for section_name in sections:
            section_tree = section_tree[section_name]
        section_tree[name] = values
    for name, section in (("train", recipe.train), ("reward", recipe.reward)):
        if section is not None:
            passed = section.training_arguments
            own = {key: value for key, value in tree[name].items() if key not in passed}
            tree[name] = {**own, **{key: passed[key] for key in sorted(passed)}}
    return tree


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, which `load_recipe` reads back to the same recipe."""
    return to_yaml(resolved(recipe))


def to_yaml(tree: Mapping[str, Any]) -> str:
    """A resolved recipe that is plain data as YAML."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


def value_text(value: str | int | float | bool | None) -> str:
    """One value as YAML writes it in a line, quoted where it has to be, also between braces."""
    if isinstance(value, float) and value == float(f"{value:.1e}") and value < 0.01:
        return f"{value:.1e}".replace("e-0", "e-")
    text: str = yaml.dump([value], Dumper=_Dumper, allow_unicode=True, default_flow_style=True, width=10**6)
    return text.strip().removeprefix("[").removesuffix("]")


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and quotes text that `reader` would take for a number: `3e4` is text to PyYAML."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "'" if read_number(data) is not None else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """The keys that differ between two resolved recipes, in the new one's order, then what only the old one has."""
    return _differences(old, new, "")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> list[Difference]:
    found: list[Difference] = []
    for key in [*new, *(key for key in old if key not in new)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found.extend(_differences(before, after, f"{prefix}{key}."))
        elif before != after or isinstance(before, bool) != isinstance(after, bool):
            found.append(Difference(f"{prefix}{key}", before, after))
    return found
