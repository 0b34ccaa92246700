"""What a stage's results depend on, and what has changed since.

A finished stage is reused only while the recipe keys that matter to it, the files that it read and the artifacts
upstream are what they were. All of it is written down by name, so that a change can be named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align_cli.artifacts.records import SCHEMA_VERSION
from align_cli.artifacts.store import checksum
from align_cli.recipe import Recipe, resolved
from align_cli.run.plan import Step
from align_cli.stages.inputs import local_files

_POLICY_KEYS = ("seed", "policy", "playground", "reviews")

STAGE_KEYS: dict[str, tuple[str, ...]] = {
    "sft": _POLICY_KEYS,
    "generate": (*_POLICY_KEYS, "data.prompts", "generate"),
    "label": ("seed", "label", "labelers", "method.sources"),
    "train": (*_POLICY_KEYS, "data.preferences", "label", "method", "train"),
    "evaluate": (
        *_POLICY_KEYS, "data.eval_prompts", "data.eval_preferences", "generate", "label", "labelers", "method.beta",
        "evaluate",
    ),
}  # fmt: skip
"""The recipe keys that each stage's results depend on; a name stands for everything below it."""


def step_inputs(recipe: Recipe, step: Step, upstream: Mapping[str, str]) -> dict[str, Any]:
    """Everything that a step's results depend on.

    Args:
        recipe: the whole recipe.
        step: which step.
        upstream: checksums of the artifacts that it reads, by path in the run's folder.

    Returns:
        `schema_version`, `recipe` (values by dotted key), `files` (checksums by key) and `upstream`.
    """
    prefixes = STAGE_KEYS[step.stage]
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": {key: value for key, value in flat(resolved(recipe)).items() if _is_below(key, prefixes)},
        "files": {key: checksum(path) for key, path in local_files(recipe).items() if _is_below(key, prefixes)},
        "upstream": dict(upstream),
    }


def changes(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What differs between two results of `step_inputs`, one sentence each, recipe keys first."""
    found = []
    for key in _all_keys(recorded, current, "recipe"):
        old, new = recorded["recipe"].get(key), current["recipe"].get(key)
        if old != new:
            found.append(f"{key} was {old!r} and is now {new!r}")
    for key in _all_keys(recorded, current, "files"):
        if recorded["files"].get(key) != current["files"].get(key):
            found.append(f"the contents of {key} have changed")
    for key in _all_keys(recorded, current, "upstream"):
        if recorded["upstream"].get(key) != current["upstream"].get(key):
            found.append(f"{key} was made anew")
    if recorded["schema_version"] != current["schema_version"]:
        found.append(
            f"it was written with artifact schema {recorded['schema_version']}, this is {current['schema_version']}"
        )
    return found


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings as dotted keys; an empty mapping stays a value of its own."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values


def _is_below(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def _all_keys(recorded: Mapping[str, Any], current: Mapping[str, Any], part: str) -> list[str]:
    return list(dict.fromkeys([*recorded[part], *current[part]]))
