"""What a stage's results depend on, and what has changed since.

A finished stage is reused only while the recipe keys that matter to it, the files that it read and the artifacts
upstream are what they were. All of it is written down by name, so that a change can be named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align_cli.artifacts.records import SCHEMA_VERSION
from align_cli.artifacts.store import checksum
from align_cli.recipe import Recipe, differences, resolved
from align_cli.run.plan import Step
from align_cli.stages.inputs import local_files

_POLICY_KEYS = ("seed", "policy", "playground", "reviews")

STAGE_KEYS: dict[str, tuple[str, ...]] = {
    "sft": _POLICY_KEYS,
    "generate": (*_POLICY_KEYS, "data.prompts", "generate"),
    "label": (*_POLICY_KEYS, "generate.batch_size", "label", "labelers", "method.beta", "method.sources"),
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
        `schema_version`, `recipe` (the part that matters), `files` (checksums by key) and `upstream`.
    """
    keys = STAGE_KEYS[step.stage]
    files = {
        key: path for key, path in local_files(recipe).items() if any(f"{key}.".startswith(f"{of}.") for of in keys)
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": _part(resolved(recipe), keys),
        "files": {key: checksum(path) for key, path in files.items()},
        "upstream": dict(upstream),
    }


def changes(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What differs between two results of `step_inputs`, one sentence each, recipe keys first."""
    keys, files, upstream = (differences(recorded[part], current[part]) for part in ("recipe", "files", "upstream"))
    found = [f"{change.key} was {change.old!r} and is now {change.new!r}" for change in keys]
    found += [f"the contents of {change.key} have changed" for change in files]
    found += [f"{change.key} was made anew" for change in upstream]
    if recorded["schema_version"] != current["schema_version"]:
        found.append(
            f"it was written with artifact schema {recorded['schema_version']}, this is {current['schema_version']}"
        )
    return found


def _part(tree: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Of a tree of settings, what lies at or below these dotted keys."""
    part: dict[str, Any] = {}
    for key in keys:
        *sections, name = key.split(".")
        source, target = tree, part
        for section in sections:
            source, target = source[section], target.setdefault(section, {})
        target[name] = source[name]
    return part
