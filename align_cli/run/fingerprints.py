"""What a stage's results depend on, and what has changed since.

A finished stage is reused only while the recipe keys that matter to it, the files that it read and the artifacts
upstream are what they were. All of it is written down by name, so that a change can be named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from align_cli.artifacts.checksums import checksum
from align_cli.artifacts.records import SCHEMA_VERSION
from align_cli.recipe import Recipe, differences, resolved
from align_cli.run.plan import Step
from align_cli.stages.inputs import local_files

_POLICY_KEYS = ("seed", "policy", "playground", "reviews")

UNRECORDED_KEYS = ("generate.batch_size", "train.report_to", "train.run_name", "train.dataloader_num_workers")
"""Keys that may change under a run, like a labeler's `batch_size`: they decide how fast, not what. Another batch size
moves a log-probability's last digits and no token."""

LARGE_FILE_BYTES = 1 << 26
"""Files of a model above this size are known by their ends and their length: reading 16 GB to say "nothing to do" is no
answer to a user who waits."""


def stage_keys(recipe: Recipe, stage: str) -> tuple[str, ...]:
    """The recipe keys that a stage's results depend on; a name stands for everything below it."""
    reward = getattr(recipe.method.sources.in_use().get("dpr"), "labeler", None)
    labelers = {"label": reward, "evaluate": recipe.evaluate.scorer}
    labeler = (f"labelers.{labelers[stage]}",) if labelers.get(stage) else ()
    prompts_too = ("data.demonstrations",) if recipe.data.prompts is None else ()
    return {
        "sft": _POLICY_KEYS,
        "generate": (*_POLICY_KEYS, "data.prompts", *prompts_too, "generate"),
        "label": (*_POLICY_KEYS, "data.demonstrations", "label", "method.beta", "method.sources", *labeler),
        "train": (*_POLICY_KEYS, "data.preferences", "label", "method", "train"),
        "evaluate": (
            *_POLICY_KEYS, "data.eval_prompts", "data.eval_preferences", "generate", "label", "method.beta", "evaluate",
            *labeler,
        ),
    }[stage]  # fmt: skip


def step_inputs(recipe: Recipe, step: Step, upstream: Mapping[str, str]) -> dict[str, Any]:
    """Everything that a step's results depend on.

    Args:
        recipe: the whole recipe.
        step: which step.
        upstream: checksums of the artifacts that it reads, by path in the run's folder.

    Returns:
        `schema_version`, `recipe` (the part that matters), `files` (checksums by key) and `upstream`.
    """
    keys = stage_keys(recipe, step.stage)
    paths = {
        key: path for key, path in local_files(recipe).items() if any(f"{key}.".startswith(f"{of}.") for of in keys)
    }
    files = {key: _input_checksum(path) for key, path in paths.items()}
    model = Path(recipe.policy.model_name_or_path or ".")
    if recipe.policy.model_name_or_path and model.is_dir():
        files["policy.model_name_or_path"] = _model_checksum(model)
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": _part(resolved(recipe), keys),
        "files": files,
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


def _input_checksum(path: Path) -> str:
    """The checksum of a file or folder that a recipe reads; read once a process while it stays as it is."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return _checksum_as_of(path, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


@cache
def _checksum_as_of(path: Path, _: tuple[tuple[str, int, int], ...]) -> str:
    return checksum(path)


def _model_checksum(folder: Path) -> str:
    """SHA-256 over a model's files; of large ones over their length and both ends."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(LARGE_FILE_BYTES))
            if size > LARGE_FILE_BYTES:
                stream.seek(-(1 << 20), 2)
                digest.update(stream.read())
    return digest.hexdigest()


def _part(tree: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Of a tree of settings, what lies at or below these dotted keys, without what may change."""
    part: dict[str, Any] = {}
    for key in keys:
        *sections, name = key.split(".")
        source, target = tree, part
        for section in sections:
            source, target = source[section], target.setdefault(section, {})
        target[name] = _without(source[name], f"{key}.")
    return part


def _without(value: Any, prefix: str) -> Any:
    if not isinstance(value, dict):
        return value
    is_labeler = prefix.startswith("labelers.")
    return {
        name: _without(child, f"{prefix}{name}.")
        for name, child in value.items()
        if f"{prefix}{name}" not in UNRECORDED_KEYS and not (is_labeler and name == "batch_size")
    }
