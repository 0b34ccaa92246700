"""A round's manifest on disk: its form, and the checksum of its own that an edit does not survive."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import SCHEMA_VERSION
from align_cli.artifacts.store import read_json, write_json
from align_cli.errors import DataError

Manifest = dict[str, Any]
"""What `_Manifest` describes."""

_Checksum = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]
"""An artifact's, which no path out of its round can be."""


def _check_member(path: str) -> str:
    if path.startswith("/") or not all(part not in ("", ".", "..") for part in path.split("/")):
        raise ValueError("no file of a folder")
    return path


_Member = Annotated[str, AfterValidator(_check_member)]
_strict = with_config(ConfigDict(strict=True, extra="forbid"))


@_strict
class _Inputs(TypedDict):
    schema_version: int
    recipe: dict[str, Any]
    files: dict[str, str]
    upstream: dict[str, str]


@_strict
class _Finding(TypedDict):
    guard: str
    action: str
    message: str


@_strict
class _Record(TypedDict):
    """A finished stage.

    Args:
        inputs: what its results depend on.
        outputs: the checksum of each artifact, by name.
        members: of an artifact that is a folder, the checksum of each file.
        dropped: artifacts, and files of artifacts, that were let go since.
        guards: what guards saw when the round was over.
        continues_from: the round whose policy the next one starts from, where it is another.
        planned_rounds: how many rounds were planned then, where a replay has to know.
    """

    inputs: _Inputs
    outputs: dict[_Name, _Checksum]
    members: NotRequired[dict[_Name, dict[_Member, _Checksum]]]
    dropped: NotRequired[list[_Member]]
    guards: NotRequired[list[_Finding]]
    continues_from: NotRequired[Annotated[int, Field(ge=0)]]
    planned_rounds: NotRequired[Annotated[int, Field(ge=1)]]


@_strict
class _Manifest(TypedDict):
    """What of a round is finished."""

    round: Annotated[int, Field(ge=0)]
    schema_version: int
    stages: dict[str, _Record]


@cache
def _form() -> TypeAdapter[_Manifest]:
    return TypeAdapter(_Manifest)


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
    try:
        _form().validate_python(manifest)
    except ValidationError:
        raise DataError("this is no manifest of a round", where=str(path), hint=remedy) from None
    if recorded != _self_checksum(manifest):
        what = "is missing" if recorded is None else "differs"
        raise DataError(f"the manifest is not what was written: its own checksum {what}", where=str(path), hint=remedy)
    continues_from = [record.get("continues_from", 0) for record in manifest["stages"].values()]
    if manifest["round"] != round_number or max(continues_from, default=0) > round_number:
        raise DataError("this is not the manifest of this round", where=str(path), hint=remedy)
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"it was written with artifact schema {manifest['schema_version']}, this is {SCHEMA_VERSION}",
            where=str(path),
            hint="go on with the version of align that wrote it",
        )
    return dict(manifest)


def _self_checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(dict(manifest)).encode()).hexdigest()
