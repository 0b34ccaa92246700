"""Going on differently: a run that begins with the first rounds of another.

The rounds are taken over as they are, file by file; nothing of them is made again, whatever the new recipe says. Where
they came from is written into run.json.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.artifacts.store import write_json, writing_folder
from align_cli.errors import RunError
from align_cli.recipe import Recipe, differences, load_recipe, resolved
from align_cli.run.fingerprints import stage_keys
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step, plan_steps


class Origin(NamedTuple):
    """Where a run forks from: another run, after one of its rounds."""

    run: Path
    round: int

    def __str__(self) -> str:
        return f"{self.run}@{self.round}"


def parse_origin(text: str) -> Origin:
    """`RUN@K`, as in `runs/first@2`.

    Raises:
        RunError: for anything else.
    """
    run, _, number = text.rpartition("@")
    if not run or not number.isdecimal():
        raise RunError(f"--from is {text!r}; it must be a run and a round", hint="as in --from runs/first@2")
    return Origin(Path(run), int(number))


def fork(recipe: Recipe, origin: Origin, folder: RunFolder) -> None:
    """Put another run's rounds, up to the one that is named, into a new run's folder; locked by the caller.

    A folder that was forked from the same round already stays as it is.

    Raises:
        RunError: if the folder holds another run, if the origin does not reach so far or was damaged, or if the recipe
            disagrees with what the rounds hold.
    """
    check_not_another(folder, origin)
    if folder.exists:
        return
    source = RunFolder(origin.run)
    _check(recipe, origin, source)
    write_json(folder.lineage_path, _lineage(origin))
    for number in range(origin.round + 1):
        _take_over(source, folder, number)


def check_not_another(folder: RunFolder, origin: Origin) -> None:
    """Refuse a folder whose run was not forked from here.

    Raises:
        RunError: if it holds such a run.
    """
    if folder.exists and folder.lineage() != _lineage(origin):
        raise RunError(
            f"this folder holds a run that was not forked from {origin}",
            where=str(folder.path),
            hint="choose another output_dir, or leave --from out to go on with this run",
        )


def _check(recipe: Recipe, origin: Origin, source: RunFolder) -> None:
    place = str(origin.run)
    if not source.exists or not source.recipe_path.is_file():
        raise RunError("there is no run in this folder", where=place, hint="give a recipe's output_dir")
    theirs = load_recipe(source.recipe_path, check_files=False)
    missing = [step for step in plan_steps(theirs) if step.round <= origin.round and source.finished(step) is None]
    if missing or origin.round > theirs.rounds:
        raise RunError(
            f"the run has not finished round {origin.round}",
            where=place,
            hint=f"see `align status {origin.run}` for how far it is",
        )
    if recipe.rounds <= origin.round:
        raise RunError(
            f"rounds is {recipe.rounds}, and {origin.round} are taken over from {origin}: there is nothing left to do",
            where="rounds",
            hint=f"set rounds to {origin.round + 1} or more",
        )
    changed = _disagreements(recipe, theirs)
    if changed:
        raise RunError(
            f"the rounds of {origin} were made with other settings: " + "; ".join(changed),
            where=place,
            hint="a fork keeps the initial policy and how policies are measured: take these keys over, or begin anew",
        )
    # The checkpoint that training goes on from, and the initial one.
    for number in {0, origin.round}:
        if source.recorded_checksum(number, "checkpoint") is not None:
            source.verified(number, "checkpoint")


def _disagreements(recipe: Recipe, theirs: Recipe) -> list[str]:
    """Keys of the initial policy and of evaluation that differ: what the new rounds are compared by."""
    keys = {*stage_keys(recipe, "sft"), *stage_keys(recipe, "evaluate"), *stage_keys(theirs, "evaluate")}
    free = ("policy.reference", "label", "method.beta", "seed")
    return [
        f"{change.key} was {change.old!r} and is now {change.new!r}"
        for change in differences(resolved(theirs), resolved(recipe))
        if any(f"{change.key}.".startswith(f"{key}.") for key in keys)
        and not any(f"{change.key}.".startswith(f"{key}.") for key in free)
        and change.key not in ("generate.batch_size", "generate.num_generations", "generate.num_reference_generations",
                               "generate.prompts_per_round")
    ]  # fmt: skip


def _take_over(source: RunFolder, folder: RunFolder, number: int) -> None:
    """A round's finished artifacts, each verified; large files are shared with the origin where the disk allows it."""
    manifest = source.manifest(number)
    target = folder.artifact(number, "manifest.json").parent
    with writing_folder(target) as temporary:
        for stage in manifest["stages"].values():
            for name in stage["outputs"]:
                if name in stage.get("dropped", []):
                    continue
                path = source.verified(number, name)
                if path.is_dir():
                    shutil.copytree(path, temporary / name, copy_function=_link_or_copy)
                else:
                    _link_or_copy(str(path), str(temporary / name))
        write_json(temporary / "manifest.json", manifest)


def _link_or_copy(path: str, target: str) -> str:
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)
    return target


def _lineage(origin: Origin) -> dict[str, Any]:
    return {"run": str(origin.run), "round": origin.round}


def inherited(folder: RunFolder, step: Step) -> bool:
    """Whether a step belongs to a round that was taken over."""
    lineage = folder.lineage()
    return lineage is not None and step.round <= lineage["round"]
