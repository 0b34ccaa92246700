"""A round's manifest on disk: its form, and the checksum of its own that an edit does not survive."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import SCHEMA_VERSION
from align_cli.artifacts.store import read_json, write_json
from align_cli.errors import DataError

Manifest = dict[str, Any]
"""`{"round", "schema_version", "stages": {stage: record}}`. Of each finished stage the record has

    inputs          what its results depend on: `schema_version`, `recipe`, `files`, `upstream`
    outputs         the checksum of each artifact, by name
    members         of an artifact that is a folder, the checksum of each file
    dropped         artifacts, and files of artifacts, that were let go since
    guards          what guards saw when the round was over
    continues_from  the round whose policy the next one starts from, where it is another
"""

KEYS = {"round", "schema_version", "stages"}


def empty_manifest(round_number: int) -> Manifest:
    """Nothing of the round is finished."""
    return {"round": round_number, "schema_version": SCHEMA_VERSION, "stages": {}}


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest, with a checksum of its own, in one step."""
    write_json(path, {**manifest, "checksum": _self_checksum(manifest)})


def read_manifest(path: Path, round_number: int, remedy: str) -> Manifest:
    """The manifest in a file.

    Args:
        path: the file.
        round_number: whose it has to be.
        remedy: what to do about one that is broken.

    Raises:
        DataError: if it is broken, or not what was written.
    """
    try:
        manifest = read_json(path)
    except DataError as error:
        raise DataError(error.faults[0].what, where=str(path), hint=remedy) from None
    recorded = manifest.pop("checksum", None) if isinstance(manifest, dict) else None
    if not _is_manifest(manifest):
        raise DataError("this is no manifest of a round", where=str(path), hint=remedy)
    if manifest["round"] != round_number or recorded != _self_checksum(manifest):
        what = "is missing" if recorded is None else "differs"
        raise DataError(f"the manifest is not what was written: its own checksum {what}", where=str(path), hint=remedy)
    return dict(manifest)


def _is_manifest(value: Any) -> bool:
    stages = value.get("stages") if isinstance(value, dict) else None
    if not isinstance(stages, dict) or not isinstance(value.get("round"), int) or set(value) - KEYS:
        return False
    parts = {"schema_version": int, "recipe": dict, "files": dict, "upstream": dict}
    return all(
        isinstance(stage, dict)
        and isinstance(stage.get("outputs"), dict)
        and isinstance(stage.get("inputs"), dict)
        and all(isinstance(stage["inputs"].get(name), kind) for name, kind in parts.items())
        for stage in stages.values()
    )


def _self_checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(dict(manifest)).encode()).hexdigest()
