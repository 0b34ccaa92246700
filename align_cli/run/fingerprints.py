"""What a stage's results depend on, and what has changed since.

A finished stage is reused only while the recipe keys that matter to it, the files that it read and the artifacts
upstream are what they were. All of it is written down by name, so that a change can be named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from align_cli import stages
from align_cli.artifacts.checksums import checksum
from align_cli.artifacts.records import SCHEMA_VERSION
from align_cli.recipe import Recipe, differences, resolved
from align_cli.recipe.keys import field_at
from align_cli.recipe.sections.labelers import LABELER_KINDS
from align_cli.recipe.written.tree import KeyPath
from align_cli.run.folder.layout import ROUNDS
from align_cli.run.folder.manifests import Manifests
from align_cli.run.plan import Step
from align_cli.stages.rows_of_recipe import local_files

UNRECORDED_KEYS = (
    "policy.device",
    "generate.batch_size",
    "generate.server",
    "label.compared_pairs",
    "train.dataloader_num_workers",
    "train.report_to",
    "train.logging_dir",
    "train.run_name",
    "train.project",
    "train.trackio_space_id",
    "train.trackio_bucket_id",
    "train.trackio_static_space_id",
)
"""Keys that may change under a run, like a labeler's `FREE_KEYS`: they decide how fast, or who is told, not what.
Another batch size moves a log-probability's last digits and no token; another kind of device may move more."""

LARGE_FILE_BYTES = 1 << 26
"""Files of a model above this size are known by their ends and their length: reading 16 GB to say "nothing to do" is no
answer to a user who waits."""


class Fingerprints:
    """What the steps of a recipe depend on, as the recipe and its files are now.

    Args:
        recipe: the whole recipe.
        history: the rounds that are over, with the artifacts that steps read.
    """

    def __init__(self, recipe: Recipe, history: Manifests) -> None:
        self._recipe = recipe
        self._history = history
        self._trees: dict[int, dict[str, Any]] = {}

    def of(self, step: Step) -> dict[str, Any]:
        """Everything that a step's results depend on.

        Returns:
            `schema_version`, `recipe` (the part that matters), `files` (checksums by key) and `upstream` (checksums of
            the artifacts that it reads, by path in the run's folder).
        """
        keys = stages.stage_named(step.stage).keys(self._recipe)
        return {
            "schema_version": SCHEMA_VERSION,
            "recipe": _part(self._tree_of(step.round), keys),
            "files": self.files(keys),
            "upstream": self._upstream(step),
        }

    def _tree_of(self, round_number: int) -> dict[str, Any]:
        """The recipe as it holds in a round; the same for all where nothing follows a schedule."""
        number = round_number if self._recipe.method.schedule else 0
        if number not in self._trees:
            self._trees[number] = resolved(self._recipe.of_round(number))
        return self._trees[number]

    def files(self, keys: Collection[str]) -> dict[str, str]:
        """The checksums of the local files that keys below these name, and of the policy's folder, by key."""
        local = local_files(self._recipe)
        files = {key: _input_checksum(path) for key, path in local.items() if lies_below(key, keys)}
        model = Path(self._recipe.policy.model_name_or_path or ".")
        if self._recipe.policy.model_name_or_path and model.is_dir():
            files["policy.model_name_or_path"] = _model_checksum(model)
        return files

    def _upstream(self, step: Step) -> dict[str, str]:
        read = stages.stage_named(step.stage).reads(self._recipe, self._history, step.round)
        found = {f"{ROUNDS}/{item.round:03d}/{item.name}": self._history.recorded_checksum(item) for item in read}
        return {name: recorded for name, recorded in found.items() if recorded is not None}


def lies_below(key: str, sections: Collection[str]) -> bool:
    """Whether a key is one of these, or stands below one of them."""
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def changes(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What differs between two results of `Fingerprints.of`, one sentence each, recipe keys first.

    A key that an earlier align did not have yet is no change while it has its default.
    """
    keys = differences(_with_new_keys(recorded["recipe"], current["recipe"]), current["recipe"])
    files, upstream = (differences(recorded[part], current[part]) for part in ("files", "upstream"))
    found = [f"{change.key} was {change.old!r} and is now {change.new!r}" for change in keys]
    found += [f"the contents of {change.key} have changed" for change in files]
    found += [f"{change.key} was made anew" for change in upstream]
    if recorded["schema_version"] != current["schema_version"]:
        found.append(
            f"it was written with artifact schema {recorded['schema_version']}, this is {current['schema_version']}"
        )
    return found


def _with_new_keys(recorded: Mapping[str, Any], current: Mapping[str, Any], path: KeyPath = ()) -> dict[str, Any]:
    """What was recorded, and what it lacks of the keys of now that have their defaults."""
    filled = dict(recorded)
    for name, value in current.items():
        here, before = (*path, name), recorded.get(name)
        if name not in recorded and _is_default(here, value, current):
            filled[name] = value
        elif isinstance(before, Mapping) and isinstance(value, Mapping):
            filled[name] = _with_new_keys(before, value, here)
    return filled


def _is_default(path: KeyPath, value: Any, section: Mapping[str, Any]) -> bool:
    """Whether a key has its default; kinds of labelers may have keys of one name with defaults of their own."""
    is_labelers = len(path) == 3 and path[0] == "labelers"
    fields = LABELER_KINDS[section["kind"]].section.model_fields if is_labelers else {}
    field = fields.get(str(path[-1])) if is_labelers else field_at(path)
    if field is None or field.is_required():
        return False
    default = field.get_default(call_default_factory=True)
    return bool((default.model_dump() if isinstance(default, BaseModel) else default) == value)


def _input_checksum(path: Path) -> str:
    """The checksum of a file or folder that a recipe reads; read once a process while it stays as it is."""
    return _checksum_as_of(path, _as_it_is(sorted(path.rglob("*")) if path.is_dir() else [path]))


def _model_checksum(folder: Path) -> str:
    """SHA-256 over a model's files; of large ones over their length and both ends."""
    return _model_checksum_as_of(folder, _as_it_is(sorted(folder.iterdir())))


FileStates = tuple[tuple[str, int, int], ...]


def _as_it_is(files: Sequence[Path]) -> FileStates:
    """What tells that a file was changed, without reading it: its name, its length, and when it was written."""
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@cache
def _checksum_as_of(path: Path, _: FileStates) -> str:
    return checksum(path)


@cache
def _model_checksum_as_of(folder: Path, files: FileStates) -> str:
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{Path(name).name}\0{size}\0".encode())
        with Path(name).open("rb") as stream:
            digest.update(stream.read(LARGE_FILE_BYTES))
            if size > LARGE_FILE_BYTES:
                stream.seek(-(1 << 20), 2)
                digest.update(stream.read())
    return digest.hexdigest()


def _part(tree: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Of a tree of settings, what lies at or below these dotted keys, without what may change."""
    part: dict[str, Any] = {}
    free = {*UNRECORDED_KEYS, *_free_keys_of_labelers(tree["labelers"])}
    for key in keys:
        *sections, name = key.split(".")
        source, target = tree, part
        for section in sections:
            source, target = source[section], target.setdefault(section, {})
        target[name] = _without(free, source[name], f"{key}.")
    return part


def _without(free: Collection[str], value: Any, prefix: str) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        name: _without(free, child, f"{prefix}{name}.")
        for name, child in value.items()
        if f"{prefix}{name}" not in free
    }


def _free_keys_of_labelers(labelers: Mapping[str, Any]) -> list[str]:
    kinds = {name: LABELER_KINDS[labeler["kind"]].section for name, labeler in labelers.items()}
    return [f"labelers.{name}.{key}" for name, section in kinds.items() for key in section.FREE_KEYS]
