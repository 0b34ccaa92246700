"""Work in progress of one step, beside the rounds: what a killed process leaves so that the next one goes on with it.

    runs/NAME/work/002-train/   journals of what was sampled and scored, checkpoints from within the train stage

Nothing here is an artifact. It belongs to exactly the inputs of its step: whatever is there for other inputs, or is not
whole, is passed over, and all of it goes when the step is finished.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from align_cli.artifacts.checksums import folder_checksum, member_checksums
from align_cli.artifacts.files import remove
from align_cli.artifacts.journal import Journal
from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.store import read_json, write_json
from align_cli.errors import DataError, RunError
from align_cli.run.plan import Step

CHECKSUM, PARTS = "checksum", "parts"
NUM_CHECKPOINTS_KEPT = 2
"""Should the newest turn out to be damaged, there is the one before."""


class WorkInProgress:
    """The work in progress of a step.

    Args:
        folder: where it lies.
        inputs: everything that the step's results depend on.
        check_held: called before anything is written; raises if the folder was taken away.
    """

    keeps_checkpoints = True

    def __init__(self, folder: Path, inputs: Mapping[str, Any], check_held: Callable[[], None] = lambda: None) -> None:
        self.folder = folder
        self._check_held = check_held
        self._key = hashlib.sha256(to_json(dict(inputs)).encode()).hexdigest()

    def journal(self, name: str) -> Journal:
        """The journal of this name; it holds what was done before an interruption."""
        self._check_held()
        return Journal(self.folder / f"{name}.jsonl", self._key)

    def checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole, or None.

        Raises:
            RunError: if a part of the newest, which is one in parts, is missing or damaged.
        """
        for record_path in reversed(self._records()):
            folder, recorded = record_path.with_suffix(""), self._recorded(record_path)
            if recorded is None or not folder.is_dir() or folder.is_symlink():
                continue
            members = member_checksums(folder)
            if folder_checksum(members) == recorded.get(CHECKSUM):
                return folder
            _check_parts(folder, members, recorded.get(PARTS, {}))
        return None

    def keep_checkpoint(self, number: int, save: Callable[[Path], object]) -> None:
        """Take in a checkpoint, and let go of those that are too old or made from other inputs.

        Args:
            number: its place in the order.
            save: writes it into the folder that it is given, in one step.
        """
        self._check_held()
        folder = self._place(number)
        save(folder)
        self._take_in(folder, {CHECKSUM: folder_checksum(member_checksums(folder))})

    def keep_parts(self, number: int, save: Callable[[Path], Mapping[str, str]]) -> None:
        """As `keep_checkpoint`, for one that many processes write.

        Args:
            number: its place in the order.
            save: writes it into the folder that it is given, in one step, and gives the checksums of the parts: who has
                written one has read it, so that nobody has to read them all.
        """
        self._check_held()
        folder = self._place(number)
        parts = dict(save(folder))
        members = {**member_checksums(folder, but=parts), **parts}
        self._take_in(folder, {CHECKSUM: folder_checksum(members), PARTS: parts})

    def drop_checkpoints(self) -> None:
        """The step begins again."""
        self._remove_checkpoints_but([])

    def remove(self) -> None:
        """The step is finished."""
        _try_to_remove(self.folder)
        _remove_if_empty(self.folder.parent)

    def _place(self, number: int) -> Path:
        return self.folder / f"step-{number:08d}"

    def _take_in(self, folder: Path, record: Mapping[str, Any]) -> None:
        """A record comes last, and goes first: a folder without one is no checkpoint."""
        write_json(folder.with_suffix(".json"), {"for": self._key, **record})
        ours = [path.stem for path in self._records() if self._recorded(path) is not None]
        self._remove_checkpoints_but(ours[-NUM_CHECKPOINTS_KEPT:])

    def _records(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*.json") if not path.is_symlink())

    def _recorded(self, record_path: Path) -> dict[str, Any] | None:
        """What was written of a checkpoint that was made from this step's inputs; None for any other record."""
        try:
            record = read_json(record_path)
        except DataError:
            return None
        return record if isinstance(record, dict) and record.get("for") == self._key else None

    def _remove_checkpoints_but(self, kept: Sequence[str]) -> None:
        for path in sorted(self.folder.glob("step-*"), key=lambda path: path.suffix != ".json"):
            if path.stem in kept:
                continue
            remove(path)


def work_name(step: Step) -> str:
    """What the folder of a step's work is called."""
    return f"{step.round:03d}-{step.stage}"


def remove_work_but(root: Path, steps: Collection[Step]) -> None:
    """Remove what is left of steps that were finished when a process was killed; the work of these steps stays."""
    kept = {work_name(step) for step in steps}
    for folder in root.iterdir() if root.is_dir() else ():
        if folder.name not in kept:
            _try_to_remove(folder)
    _remove_if_empty(root)


def _check_parts(folder: Path, members: Mapping[str, str], parts: Mapping[str, str]) -> None:
    """Say which part of a checkpoint is not what was written; nothing where it is none of its parts.

    Raises:
        RunError: for the first that is missing or damaged.
    """
    for name, written in sorted(parts.items()):
        if members.get(name) != written:
            what = "is damaged: it is not what was written" if name in members else "is missing"
            raise RunError(
                f"a part of the checkpoint {what}",
                where=str(folder / name),
                hint=f"put it back from a copy; or remove {folder}, and the run goes on from the checkpoint before it, "
                "or from where the round began",
            )


def _try_to_remove(path: Path) -> None:
    with suppress(OSError):
        remove(path)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
