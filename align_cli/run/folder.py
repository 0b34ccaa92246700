"""A run's folder: names, manifests, ledger and lock.

    recipe.yaml  run.json  ledger.jsonl  rounds/000/  rounds/001/ ...

A stage's results are written first; then the round's manifest takes them in with their checksums. What no manifest
names does not exist for `align`.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from align_cli import __version__
from align_cli.artifacts.records import SCHEMA_VERSION
from align_cli.artifacts.store import TEMPORARY_SUFFIX, checksum, read_json, to_json, write_json, write_text
from align_cli.errors import DataError, RunError
from align_cli.run.plan import Step

VERSIONED_PACKAGES = ("torch", "transformers", "trl", "datasets", "accelerate", "tokenizers", "numpy")
RUN_NAMES = ("work", "ledger.jsonl", "recipe.yaml", "lineage.json", "rounds", "run.json")
"""What a run writes; run.json, which makes a folder a run's, is moved last and comes back first."""

SET_ASIDE = ".previous"
"""Where `--restart` keeps the old run until the new one has finished its first step."""


class RunFolder:
    """The folder of one run.

    Args:
        path: the recipe's `output_dir`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe_path = self.path / "recipe.yaml"
        self.run_path = self.path / "run.json"
        self.ledger_path = self.path / "ledger.jsonl"
        self.work_path = self.path / "work"
        self.lineage_path = self.path / "lineage.json"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.run_path.is_file()

    def lineage(self) -> dict[str, Any] | None:
        """Where the run was forked from, `{"run", "round"}`; None for a run of its own."""
        return read_json(self.lineage_path) if self.exists and self.lineage_path.is_file() else None

    def artifact(self, round_number: int, name: str) -> Path:
        """Where an artifact of a round lies, or will."""
        return self.path / "rounds" / f"{round_number:03d}" / name

    def check_usable(self) -> None:
        """Refuse a folder that holds something else than a run.

        Raises:
            RunError: if it does.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError("output_dir is a file", where=str(self.path), hint="choose another output_dir")
        if not self.exists and self.path.is_dir():
            begun = ("lineage.json", "rounds") if self.lineage_path.is_file() else ()  # a fork that was killed
            names = (entry.name for entry in self.path.iterdir())
            strangers = sorted(name for name in names if name not in begun and not _is_leftover(name))
            if strangers:
                raise RunError(
                    f"output_dir holds files that are no run: {', '.join(strangers[:3])}",
                    where=str(self.path),
                    hint="choose an empty or a new output_dir",
                )

    def begin(self, recipe_yaml: str, seed: int) -> None:
        """Write down what is run, if it is not yet written so."""
        if not self.exists:
            write_json(self.run_path, {**_versions(), "seed": seed, "schema_version": SCHEMA_VERSION})
        if not self.recipe_path.is_file() or self.recipe_path.read_text(encoding="utf-8") != recipe_yaml:
            write_text(self.recipe_path, recipe_yaml)

    def set_aside(self) -> None:
        """Make room for a new run; the old one can still be brought back."""
        if not self.exists:
            return
        self.drop_set_aside()
        (self.path / SET_ASIDE).mkdir()
        for name in RUN_NAMES:
            if (self.path / name).exists():
                (self.path / name).replace(self.path / SET_ASIDE / name)

    def bring_back(self) -> None:
        """Undo `set_aside`, and remove what the new run has written since."""
        if not (self.path / SET_ASIDE / "run.json").is_file():
            return
        for name in ("work", "rounds"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in reversed(RUN_NAMES):
            if (self.path / SET_ASIDE / name).exists():
                (self.path / SET_ASIDE / name).replace(self.path / name)
        self.drop_set_aside()

    def drop_set_aside(self) -> None:
        """Remove the run that was set aside."""
        shutil.rmtree(self.path / SET_ASIDE, ignore_errors=True)

    def manifest(self, round_number: int) -> dict[str, Any]:
        """What of a round is finished: `{"round", "schema_version", "stages": {stage: {"inputs", "outputs"}}}`.

        Raises:
            DataError: if it is broken.
        """
        path = self.artifact(round_number, "manifest.json")
        if not path.is_file():
            return {"round": round_number, "schema_version": SCHEMA_VERSION, "stages": {}}
        manifest = read_json(path)
        if not _is_manifest(manifest):
            raise DataError("this is no manifest of a round", where=str(path), hint=_damage_remedy(self.path))
        return manifest

    def finished(self, step: Step) -> dict[str, Any] | None:
        """The inputs and outputs of a finished step, or None."""
        return self.manifest(step.round)["stages"].get(step.stage)

    def finish(
        self,
        step: Step,
        inputs: Mapping[str, Any],
        names: list[str],
        guards: Sequence[Mapping[str, str]] = (),
        continues_from: int | None = None,
    ) -> None:
        """Take a step's results into the manifest: from here on the step is finished.

        Args:
            step: which step.
            inputs: from `step_inputs`.
            names: its artifacts in the round's folder.
            guards: what guards saw when the round was over.
            continues_from: the round whose policy the next one starts from, where that is another.
        """
        outputs = {name: checksum(self.artifact(step.round, name)) for name in names}
        manifest = self.manifest(step.round)
        entry: dict[str, Any] = {"inputs": dict(inputs), "outputs": outputs}
        if guards:
            entry["guards"] = [dict(finding) for finding in guards]
        if continues_from is not None:
            entry["continues_from"] = continues_from
        manifest["stages"][step.stage] = entry
        write_json(self.artifact(step.round, "manifest.json"), manifest)

    def base(self, round_number: int) -> int:
        """The round whose policy the next one starts from: this one, unless a guard rolled it back."""
        for stage in self.manifest(round_number)["stages"].values():
            if "continues_from" in stage:
                return int(stage["continues_from"])
        return round_number

    def recorded_checksum(self, round_number: int, name: str) -> str | None:
        """The checksum under which a finished artifact was taken in, or None."""
        for stage in self.manifest(round_number)["stages"].values():
            if name in stage["outputs"]:
                return stage["outputs"][name]
        return None

    def verified(self, round_number: int, name: str) -> Path:
        """The path of a finished artifact whose content is what it was.

        Raises:
            RunError: if it is missing or changed.
        """
        path = self.artifact(round_number, name)
        recorded = self.recorded_checksum(round_number, name)
        if recorded is not None and self._is_dropped(round_number, name):
            raise RunError(
                f"the {name} of round {round_number} was let go, as checkpoints.keep says",
                where=str(path),
                hint="take a round that is kept, or run again with a higher checkpoints.keep",
            )
        if recorded is None or not path.exists():
            raise RunError("the artifact is missing", where=str(path), hint=_damage_remedy(self.path))
        if checksum(path) != recorded:
            raise RunError(
                "the artifact is not what was written: its checksum differs from the manifest's",
                where=str(path),
                hint=_damage_remedy(self.path),
            )
        return path

    def drop(self, round_number: int, name: str) -> None:
        """Let go of a finished artifact that nothing needs any more; its checksum stays on record."""
        manifest = self.manifest(round_number)
        for stage in manifest["stages"].values():
            if name in stage["outputs"] and name not in stage.get("dropped", []):
                stage["dropped"] = [*stage.get("dropped", []), name]
                write_json(self.artifact(round_number, "manifest.json"), manifest)
        shutil.rmtree(self.artifact(round_number, name), ignore_errors=True)

    def _is_dropped(self, round_number: int, name: str) -> bool:
        return any(name in stage.get("dropped", []) for stage in self.manifest(round_number)["stages"].values())

    def log(self, event: str, **fields: Any) -> None:
        """Append an event with its time to the ledger."""
        self.path.mkdir(parents=True, exist_ok=True)
        line = to_json({"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **fields})
        is_torn = self.ledger_path.is_file() and not self.ledger_path.read_bytes().endswith(b"\n")
        with self.ledger_path.open("a", encoding="utf-8") as stream:
            # A kill may have left the last line unfinished; it must not swallow this one.
            stream.write(("\n" if is_torn else "") + line + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def ledger(self) -> list[dict[str, Any]]:
        """Every event so far; a last line that a killed process left unfinished is passed over."""
        if not self.ledger_path.is_file():
            return []
        events = []
        for line in self.ledger_path.read_text(encoding="utf-8").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: a second process on the same run is refused. The lock dies with the process.

        Raises:
            RunError: if another process holds it; names its host, pid and start.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"output_dir cannot be made: {error.strerror}", where=str(self.path), hint="choose another output_dir"
            ) from None
        with (self.path / ".lock").open("a+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read().strip() or "another process"
                raise RunError(
                    f"the run is in use by {holder}", where=str(self.path), hint="wait for it, or end it first"
                ) from None
            stream.truncate(0)
            stream.write(f"{socket.gethostname()} pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            stream.flush()
            yield


def _is_leftover(name: str) -> bool:
    """Whether a killed command of ours may have left this behind before its run began."""
    return name in (".lock", SET_ASIDE) or name.endswith(TEMPORARY_SUFFIX)


def _is_manifest(value: Any) -> bool:
    stages = value.get("stages") if isinstance(value, dict) else None
    parts = {"schema_version": int, "recipe": dict, "files": dict, "upstream": dict}
    return isinstance(stages, dict) and all(
        isinstance(stage, dict)
        and isinstance(stage.get("outputs"), dict)
        and isinstance(stage.get("inputs"), dict)
        and all(isinstance(stage["inputs"].get(name), kind) for name, kind in parts.items())
        for stage in stages.values()
    )


def _versions() -> dict[str, Any]:
    packages = {"align": __version__, "python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"versions": packages, "machine": {"host": socket.gethostname(), "platform": platform.platform()}}


def _damage_remedy(path: Path) -> str:
    return f"restore it from a copy, or begin anew with --restart (removes the run in {path})"
