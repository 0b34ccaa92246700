"""A run's folder: names, manifests, ledger and lock.

    recipe.yaml  run.json  ledger.jsonl  rounds/000/  rounds/001/ ...

A stage's results are written first; then the round's manifest takes them in with their checksums. What no manifest
names does not exist for `align`.
"""

from __future__ import annotations

import fcntl
import hashlib
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
from align_cli.artifacts.checksums import checksum
from align_cli.artifacts.disk import disk_error, writing
from align_cli.artifacts.files import TEMPORARY_SUFFIX, write_text
from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import SCHEMA_VERSION
from align_cli.artifacts.store import read_json, write_json
from align_cli.errors import AlignError, DataError, RunError
from align_cli.recipe import Recipe, differences, load_recipe, resolved
from align_cli.run.plan import Step

VERSIONED_PACKAGES = ("torch", "transformers", "trl", "datasets", "accelerate", "tokenizers", "numpy")
RUN_NAMES = ("work", "ledger.jsonl", "recipe.yaml", "lineage.json", "rounds", "run.json")
"""What a run writes; run.json, which makes a folder a run's, is moved last and comes back first."""

MANIFEST_KEYS = {"round", "schema_version", "stages"}
RECIPE_REMEDY = (
    "restore it from a copy, or run `align train` with your own recipe and rounds raised: it is written anew"
)

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
        self._lock_path = self.path / ".lock"
        self._held: tuple[int, int] | None = None

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.run_path.is_file()

    def lineage(self) -> dict[str, Any] | None:
        """Where the run was, or is being, forked from, `{"run", "round"}`; None for a run of its own.

        Raises:
            DataError: if it is broken.
        """
        if not self.lineage_path.is_file():
            return None
        lineage = read_json(self.lineage_path)
        if not (isinstance(lineage, dict) and type(lineage.get("round")) is int and type(lineage.get("run")) is str):
            raise DataError(
                "this does not say where a run was forked from",
                where=str(self.lineage_path),
                hint=_damage_remedy(self.path),
            )
        return lineage

    def artifact(self, round_number: int, name: str) -> Path:
        """Where an artifact of a round lies, or will.

        Raises:
            RunError: if this process works on the run and its folder was taken away.
        """
        self.check_held()
        return self.path / "rounds" / f"{round_number:03d}" / name

    def check_usable(self) -> None:
        """Refuse a folder that holds something else than a run.

        Raises:
            RunError: if it does.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError("output_dir is a file", where=str(self.path), hint="choose another output_dir")
        if not self.exists and self.path.is_dir():
            self._check_not_lost()
            begun = ("lineage.json", "rounds") if self.lineage_path.is_file() else ()  # a fork that was killed
            names = (entry.name for entry in self.path.iterdir())
            strangers = sorted(name for name in names if name not in begun and not _is_leftover(name))
            if strangers:
                raise RunError(
                    f"output_dir holds files that are no run: {', '.join(strangers[:3])}",
                    where=str(self.path),
                    hint="choose an empty or a new output_dir",
                )

    def check_is_run(self) -> None:
        """Refuse a folder that holds no run, or no longer all that makes one.

        Raises:
            RunError: if it does not.
        """
        if not self.exists:
            self._check_not_lost()
            raise RunError("there is no run in this folder", where=str(self.path), hint="give a recipe's output_dir")
        if not self.recipe_path.is_file():
            raise RunError("the run's recipe is missing", where=str(self.recipe_path), hint=RECIPE_REMEDY)

    def _check_not_lost(self) -> None:
        """Tell a run that has lost its run.json from a folder that never held one."""
        if self.recipe_path.is_file() and any(self.path.glob("rounds/*/manifest.json")):
            raise RunError(
                "the file is missing; without it this folder is no run",
                where=str(self.run_path),
                hint="restore it from a copy, or choose another output_dir",
            )

    def recipe(self) -> Recipe:
        """The recipe as it was written down; checked against what the finished stages say they were made from.

        Raises:
            RecipeError: if it cannot be read.
            RunError: if there is none, or if it is not the one that the rounds were made from.
        """
        self.check_is_run()
        recipe = load_recipe(self.recipe_path, check_files=False)
        for number in range(recipe.rounds + 1):
            for stage, record in self.manifest(number)["stages"].items():
                made_from = record["inputs"]["recipe"]
                found = differences(made_from, _shared(resolved(recipe), made_from))
                if found and not self._is_inherited(number):
                    raise RunError(
                        f"this is not the recipe that round {number} {stage} was made from: "
                        + "; ".join(f"{change.key} was {change.old!r} and is now {change.new!r}" for change in found),
                        where=str(self.recipe_path),
                        hint=RECIPE_REMEDY,
                    )
        return recipe

    def _is_inherited(self, round_number: int) -> bool:
        lineage = self.lineage()
        return lineage is not None and round_number <= lineage["round"]

    def begin(self, recipe_yaml: str, seed: int) -> None:
        """Write down what is run, if it is not yet written so."""
        if not self.exists:
            write_json(self.run_path, {**_versions(), "seed": seed, "schema_version": SCHEMA_VERSION})
        if not self.recipe_path.is_file() or self.recipe_path.read_bytes() != recipe_yaml.encode():
            write_text(self.recipe_path, recipe_yaml)

    def set_aside(self) -> None:
        """Make room for a new run; the old one can still be brought back."""
        if not self.exists:
            self.drop_interrupted_fork()
            return
        self.drop_set_aside()
        (self.path / SET_ASIDE).mkdir()
        for name in RUN_NAMES:
            if (self.path / name).exists():
                (self.path / name).replace(self.path / SET_ASIDE / name)

    def bring_back(self) -> None:
        """Undo `set_aside`, and remove what the new run has written since."""
        self.check_held()
        if not (self.path / SET_ASIDE / "run.json").is_file():
            return
        for name in ("work", "rounds"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self.lineage_path.unlink(missing_ok=True)
        for name in reversed(RUN_NAMES):
            if (self.path / SET_ASIDE / name).exists():
                (self.path / SET_ASIDE / name).replace(self.path / name)
        self.drop_set_aside()

    def drop_set_aside(self) -> None:
        """Remove the run that was set aside."""
        shutil.rmtree(self.path / SET_ASIDE, ignore_errors=True)

    def drop_interrupted_fork(self) -> None:
        """Remove what a fork that was killed has taken over so far."""
        self.check_held()
        if not self.exists and self.lineage() is not None:
            shutil.rmtree(self.path / "rounds", ignore_errors=True)
            self.lineage_path.unlink()

    def manifest(self, round_number: int) -> dict[str, Any]:
        """What of a round is finished: `{"round", "schema_version", "stages": {stage: {"inputs", "outputs"}}}`.

        On disk it ends with a checksum of its own.

        Raises:
            DataError: if it is broken, or missing though a later round has one.
        """
        path = self.artifact(round_number, "manifest.json")
        if not path.is_file():
            if self._was_finished(round_number):
                raise DataError(
                    "the manifest is missing, though a later round has one",
                    where=str(path),
                    hint=_damage_remedy(self.path),
                )
            return {"round": round_number, "schema_version": SCHEMA_VERSION, "stages": {}}
        try:
            manifest = read_json(path)
        except DataError as error:
            raise DataError(error.faults[0].what, where=str(path), hint=_damage_remedy(self.path)) from None
        recorded = manifest.pop("checksum", None) if isinstance(manifest, dict) else None
        if not _is_manifest(manifest):
            raise DataError("this is no manifest of a round", where=str(path), hint=_damage_remedy(self.path))
        if manifest["round"] != round_number or recorded not in (None, _self_checksum(manifest)):
            raise DataError(
                "the manifest is not what was written: its own checksum differs",
                where=str(path),
                hint=_damage_remedy(self.path),
            )
        return manifest

    def write_manifest(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Write what `manifest` returns, with a checksum of its own."""
        write_json(path, {**manifest, "checksum": _self_checksum(manifest)})

    def _was_finished(self, round_number: int) -> bool:
        """Whether a round without a manifest must have had one; round 0 may have had nothing to do."""
        had_steps = round_number > 0 or self.artifact(0, "checkpoint").exists()
        later = (path.parent.name for path in self.path.glob("rounds/*/manifest.json"))
        return had_steps and any(name.isdecimal() and int(name) > round_number for name in later)

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
        self.write_manifest(self.artifact(step.round, "manifest.json"), manifest)

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

    def kept(self, round_number: int, name: str) -> Path:
        """The path of a finished artifact that is there; what it holds is not looked at.

        Raises:
            RunError: if it was let go, or is missing.
        """
        path = self.artifact(round_number, name)
        recorded = self.recorded_checksum(round_number, name)
        if recorded is not None and self.is_dropped(round_number, name):
            raise RunError(
                f"the {name} of round {round_number} was let go, as checkpoints.keep says",
                where=str(path),
                hint="take a round that is kept, or run again with a higher checkpoints.keep",
            )
        if recorded is None or not path.exists():
            raise RunError("the artifact is missing", where=str(path), hint=_damage_remedy(self.path))
        return path

    def verified(self, round_number: int, name: str) -> Path:
        """The path of a finished artifact whose content is what it was.

        Raises:
            RunError: if it is missing or changed.
        """
        path = self.kept(round_number, name)
        if checksum(path) != self.recorded_checksum(round_number, name):
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
                self.write_manifest(self.artifact(round_number, "manifest.json"), manifest)
        shutil.rmtree(self.artifact(round_number, name), ignore_errors=True)

    def is_dropped(self, round_number: int, name: str) -> bool:
        """Whether a finished artifact was let go."""
        return any(name in stage.get("dropped", []) for stage in self.manifest(round_number)["stages"].values())

    def log(self, event: str, **fields: Any) -> None:
        """Append an event with its time to the ledger."""
        self.check_held()
        line = to_json({"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **fields})
        is_torn = self.ledger_path.is_file() and not self.ledger_path.read_bytes().endswith(b"\n")
        with writing(self.ledger_path), self.ledger_path.open("a", encoding="utf-8") as stream:
            # A kill may have left the last line unfinished; it must not swallow this one.
            stream.write(("\n" if is_torn else "") + line + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def ledger(self) -> list[dict[str, Any]]:
        """Every event so far; a line that a killed process left unfinished, or that is damaged, is passed over.

        Nothing depends on the ledger: it is for people.
        """
        if not self.ledger_path.is_file():
            return []
        events = []
        for line in self.ledger_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if _is_event(event):
                events.append(event)
        return events

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: a second process on the same run is refused. The lock dies with the process.

        Raises:
            RunError: if another process holds it; names its host, pid and start. While it is held: if the folder is
                taken away.
            AlignError: for a disk that is full, read-only or broken.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._lock_path.open("a+", encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"output_dir cannot be made or written: {error.strerror}",
                where=str(self.path),
                hint="choose another output_dir",
            ) from None
        with lock as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read().strip() or "another process"
                raise RunError(
                    f"the run is in use by {holder}", where=str(self.path), hint="wait for it, or end it first"
                ) from None
            self._held = _identity(os.fstat(stream.fileno()))
            try:
                with writing(self._lock_path):
                    stream.truncate(0)
                    stream.write(f"{socket.gethostname()} pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
                    stream.flush()
                yield
            except Exception as error:
                self.check_held()  # without its folder a run meets all kinds of errors; this is the one to tell
                fault = None if isinstance(error, AlignError) else disk_error(error, str(self.path))
                if fault is None:
                    raise
                raise fault from None
            finally:
                self._held = None

    def check_held(self) -> None:
        """Refuse to write where another process may be at work by now; nothing is checked unless the lock was taken.

        Raises:
            RunError: if the folder that was locked is no longer in its place.
        """
        if self._held is None:
            return
        try:
            found = _identity(self._lock_path.stat())
        except OSError:
            found = None
        if found != self._held:
            raise RunError(
                "the run's folder, or the .lock in it, was removed or replaced while the run was at work",
                where=str(self.path),
                hint="put it back if it was moved, then run the same command again: it goes on from what is there",
            )


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_leftover(name: str) -> bool:
    """Whether a killed command of ours may have left this behind before its run began."""
    return name in (".lock", SET_ASIDE) or name.endswith(TEMPORARY_SUFFIX)


def _is_manifest(value: Any) -> bool:
    stages = value.get("stages") if isinstance(value, dict) else None
    if not isinstance(stages, dict) or not isinstance(value.get("round"), int) or set(value) - MANIFEST_KEYS:
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


def _is_event(value: Any) -> bool:
    kinds = {"event": str, "time": str, "round": int, "stage": str}
    if not isinstance(value, dict) or not all(isinstance(value.get(name), kind) for name, kind in kinds.items()):
        return False
    return value["event"] != "finish" or isinstance(value.get("seconds"), int | float)


def _shared(tree: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Of a tree of settings, the keys that another one has too."""
    return {
        name: _shared(tree[name], value) if isinstance(value, dict) and isinstance(tree[name], dict) else tree[name]
        for name, value in wanted.items()
        if name in tree
    }


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
