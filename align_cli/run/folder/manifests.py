"""What of a run is finished, and that it is what was written: one manifest a round, with a checksum for every artifact.

A stage's results are written first; then the round's manifest takes them in. What no manifest names does not exist for
`align`. Each manifest is read once, and kept true by whoever writes it here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from align_cli import stages
from align_cli.artifacts.checksums import STRANGERS, checksum, folder_checksum, member_checksums
from align_cli.artifacts.files import remove
from align_cli.errors import DataError, RunError
from align_cli.run.folder.layout import MANIFEST, Layout
from align_cli.run.folder.manifest import Manifest, empty_manifest, read_manifest, write_manifest
from align_cli.run.plan import Step
from align_cli.stages.base import CHECKPOINT, Artifact, Done

KEEP_MORE = "take a round that is kept, or run again with a higher checkpoints.keep"


class Manifests:
    """The manifests of a run.

    Args:
        layout: where they lie.
        check_held: called before anything is looked for or written; raises if the folder was taken away.
    """

    def __init__(self, layout: Layout, check_held: Callable[[], None] = lambda: None) -> None:
        self._layout = layout
        self._check_held = check_held
        self._read: dict[int, Manifest] = {}
        self._on_disk: list[int] | None = None

    def forget(self) -> None:
        """Read everything anew: another process may have written it."""
        self._read.clear()
        self._on_disk = None

    def rounds(self) -> list[int]:
        """The rounds that have a manifest."""
        if self._on_disk is None:
            self._on_disk = self._layout.rounds_with(MANIFEST)
        return self._on_disk

    def of_round(self, round_number: int) -> Manifest:
        """What of a round is finished; nothing, where it has no manifest.

        Raises:
            DataError: if it is broken, or missing though a later round has one.
        """
        if round_number not in self._read:
            self._read[round_number] = self._read_from_disk(round_number)
        return self._read[round_number]

    def finished(self, step: Step) -> dict[str, Any] | None:
        """The inputs and outputs of a finished step, or None."""
        record: dict[str, Any] | None = self.of_round(step.round)["stages"].get(step.stage)
        return record

    def place(self, artifact: Artifact) -> Path:
        """Where an artifact lies, or will.

        Raises:
            RunError: if this process works on the run and its folder was taken away.
        """
        self._check_held()
        return self._layout.artifact(artifact.round, artifact.name)

    def finish(
        self,
        step: Step,
        inputs: Mapping[str, Any],
        names: Sequence[str],
        done: Done,
        guards: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Take a step's results in: from here on the step is finished.

        Args:
            step: which step.
            inputs: everything that it depends on.
            names: its artifacts in the round's folder.
            done: what it did.
            guards: what guards saw when the round was over.
        """
        entry: dict[str, Any] = {"inputs": dict(inputs), "outputs": {}}
        for name in names:
            path = self.place(Artifact(step.round, name))
            if path.is_dir():
                members = member_checksums(path)
                entry.setdefault("members", {})[name] = members
                entry["outputs"][name] = folder_checksum(members)
            else:
                entry["outputs"][name] = checksum(path)
        if guards:
            entry["guards"] = [dict(finding) for finding in guards]
        if done.continues_from is not None:
            entry["continues_from"] = done.continues_from
        if done.planned_rounds is not None:
            entry["planned_rounds"] = done.planned_rounds
        manifest = copy.deepcopy(self.of_round(step.round))
        manifest["stages"][step.stage] = entry
        order = {stage.name: place for place, stage in enumerate(stages.STAGES)}
        manifest["stages"] = dict(sorted(manifest["stages"].items(), key=lambda item: order.get(item[0], len(order))))
        self.write(step.round, manifest)

    def write(self, round_number: int, manifest: Manifest) -> None:
        """Write a round's manifest."""
        write_manifest(self.place(Artifact(round_number, MANIFEST)), manifest)
        self._read[round_number] = manifest
        if round_number not in self.rounds():
            self._on_disk = sorted([*self.rounds(), round_number])

    def base(self, round_number: int) -> int:
        """The round whose policy the next one starts from: this one, unless a guard rolled it back."""
        for record in self.of_round(round_number)["stages"].values():
            if "continues_from" in record:
                return int(record["continues_from"])
        return round_number

    def holds(self, artifact: Artifact) -> bool:
        """Whether a finished stage wrote this, though it may have been let go since."""
        return self._record_of(artifact) is not None

    def recorded_checksum(self, artifact: Artifact) -> str | None:
        """The checksum under which a finished artifact was taken in, or None."""
        record = self._record_of(artifact)
        return None if record is None else record["outputs"][artifact.name]

    def is_kept(self, artifact: Artifact) -> bool:
        """Whether a finished stage wrote this, and it was not let go since."""
        record = self._record_of(artifact)
        return record is not None and artifact.name not in record.get("dropped", [])

    def kept(self, artifact: Artifact) -> Path:
        """The path of a finished artifact that is there; what it holds is not looked at.

        Raises:
            RunError: if it was let go, or is missing.
        """
        path = self.place(artifact)
        if self.holds(artifact) and not self.is_kept(artifact):
            raise RunError(
                f"the {artifact.name} of round {artifact.round} was let go, as checkpoints.keep says",
                where=str(path),
                hint=KEEP_MORE,
            )
        if not self.holds(artifact) or not path.exists():
            raise RunError("the artifact is missing", where=str(path), hint=self._layout.damage_remedy(path))
        return path

    def verified(self, artifact: Artifact, but: Sequence[str] = ()) -> Path:
        """The path of a finished artifact whose content is what it was.

        Args:
            artifact: which one.
            but: of a folder, files that nobody is going to read.

        Raises:
            RunError: if it is missing or changed; of a folder, names the file.
        """
        path = self.kept(artifact)
        record = self._record_of(artifact) or {}
        if path.is_dir() and artifact.name in record.get("members", {}):
            self._check_members(path, artifact.name, record, but)
        else:
            self._check_same(path, checksum(path), record["outputs"][artifact.name])
        return path

    def drop(self, artifact: Artifact) -> None:
        """Let go of a finished artifact that nothing needs any more; its checksum stays on record."""
        self._drop(artifact, artifact.name)

    def drop_member(self, artifact: Artifact, member: str) -> None:
        """Let go of one file of an artifact that is a folder."""
        self._drop(artifact, f"{artifact.name}/{member}")

    def remove_dropped(self) -> None:
        """Remove what a killed process had let go and not yet removed."""
        for number in self.rounds():
            for record in self.of_round(number)["stages"].values():
                for name in record.get("dropped", []):
                    self._remove(number, name)

    def has_member(self, artifact: Artifact, member: str) -> bool:
        """Whether an artifact that is a folder was written with a file, and neither was let go since."""
        record = self._record_of(artifact)
        if record is None or member not in record.get("members", {}).get(artifact.name, {}):
            return False
        return not {artifact.name, f"{artifact.name}/{member}"} & set(record.get("dropped", []))

    def _drop(self, artifact: Artifact, name: str) -> None:
        manifest = copy.deepcopy(self.of_round(artifact.round))
        for record in manifest["stages"].values():
            if artifact.name in record["outputs"] and name not in record.get("dropped", []):
                record["dropped"] = [*record.get("dropped", []), name]
                self.write(artifact.round, manifest)
        self._remove(artifact.round, name)

    def _remove(self, round_number: int, name: str) -> None:
        with suppress(OSError):  # what cannot be removed takes room, and does no harm
            remove(self.place(Artifact(round_number, name)))

    def _record_of(self, artifact: Artifact) -> dict[str, Any] | None:
        """The record of the stage that wrote an artifact, or None."""
        for record in self.of_round(artifact.round)["stages"].values():
            if artifact.name in record["outputs"]:
                return dict(record)
        return None

    def _check_same(self, path: Path, found: str, recorded: str) -> None:
        if found != recorded:
            raise RunError(
                "the artifact is not what was written: its checksum differs from the manifest's",
                where=str(path),
                hint=self._layout.damage_remedy(path),
            )

    def _check_members(self, folder: Path, name: str, record: Mapping[str, Any], but: Sequence[str]) -> None:
        """Name the first file of a folder that is not what was written."""
        passed = {*but, *(entry.removeprefix(f"{name}/") for entry in record.get("dropped", []))}
        written = {member: found for member, found in record["members"][name].items() if member not in passed}
        there = member_checksums(folder, passed)
        for member, found in there.items():
            if member not in written:
                raise RunError(
                    f"this file is not of the {name} that was written, and may change what it is",
                    where=str(folder / member),
                    hint="remove it, then run the same command again",
                )
            if found in STRANGERS:
                raise RunError(
                    f"this is {found}; a file was written here",
                    where=str(folder / member),
                    hint=self._layout.damage_remedy(folder / member),
                )
            self._check_same(folder / member, found, written[member])
        for member in written:
            if member not in there:
                place = folder / member
                raise RunError("the file is missing", where=str(place), hint=self._layout.damage_remedy(place))

    def _read_from_disk(self, round_number: int) -> Manifest:
        path = self.place(Artifact(round_number, MANIFEST))
        remedy = self._layout.damage_remedy(path)
        if path.is_file():
            return read_manifest(path, round_number, remedy)
        if self._was_finished(round_number):
            raise DataError("the manifest is missing, though a later round has one", where=str(path), hint=remedy)
        return empty_manifest(round_number)

    def _was_finished(self, round_number: int) -> bool:
        """Whether a round without a manifest must have had one; round 0 may have had nothing to do."""
        is_earlier = bool(self.rounds()) and round_number < self.rounds()[-1]
        return is_earlier and (round_number > 0 or self._layout.artifact(0, CHECKPOINT).exists())
