"""Going on differently: a run that begins with the first rounds of another.

The rounds are taken over as they are, file by file; nothing of them is made again, whatever the new recipe says. Where
they came from is written into lineage.json, which comes first: a fork that was killed is known by it, and goes on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from align_cli.artifacts.files import writing_folder
from align_cli.artifacts.store import write_json
from align_cli.errors import RunError
from align_cli.recipe import Recipe, differences, resolved
from align_cli.run.fingerprints import stage_keys, step_inputs
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step, plan_steps

FREE_KEYS = (
    "policy.reference",
    "label",
    "method.beta",
    "generate.batch_size",
    "generate.num_generations",
    "generate.num_reference_generations",
    "generate.prompts_per_round",
)
"""Keys that a fork may change, though an evaluation is recorded with them: no held-out response depends on them."""


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


def interrupted_fork(folder: RunFolder) -> Origin | None:
    """Where a fork that was killed while it took rounds over takes them from; None where there is no such fork."""
    lineage = folder.lineage() if not folder.exists else None
    return Origin(Path(lineage["run"]), lineage["round"]) if lineage is not None else None


def check_fork(recipe: Recipe, origin: Origin, folder: RunFolder, *, restart: bool = False) -> None:
    """Refuse what cannot be forked before anything is written.

    Args:
        recipe: of the new run.
        origin: what it begins with.
        folder: of the new run.
        restart: whether a run that is in the folder already will make room.

    Raises:
        RunError: if the folder holds another run, if the origin does not reach so far or let go of what is needed, or
            if the recipe disagrees with what the rounds hold.
    """
    if origin.run.resolve() == folder.path.resolve():
        raise RunError(
            "a run cannot be forked into its own folder", where="output_dir", hint="choose another output_dir"
        )
    if not folder.exists or restart:
        _check_origin(recipe, origin, RunFolder(origin.run))
    elif not _is_from(folder, origin):
        raise RunError(
            f"this folder holds a run that was not forked from {origin}",
            where=str(folder.path),
            hint="choose another output_dir, or leave --from out to go on with this run",
        )


def fork(origin: Origin, folder: RunFolder) -> None:
    """Put another run's rounds, up to the one that is named, into a new run's folder; checked and locked by the caller.

    A folder that holds a run already stays as it is.

    Raises:
        RunError: if an artifact of the origin was damaged; nothing is left of the fork then.
    """
    if folder.exists:
        return
    folder.drop_interrupted_fork()
    try:
        write_json(folder.lineage_path, {"run": str(origin.run), "round": origin.round})
        for number in range(origin.round + 1):
            _take_over(RunFolder(origin.run), folder, number)
    except Exception:
        folder.drop_interrupted_fork()
        raise


def _is_from(folder: RunFolder, origin: Origin) -> bool:
    lineage = folder.lineage()
    return (
        lineage is not None
        and lineage["round"] == origin.round
        and Path(lineage["run"]).resolve() == origin.run.resolve()
    )


def _check_origin(recipe: Recipe, origin: Origin, source: RunFolder) -> None:
    place = str(origin.run)
    theirs = source.recipe()
    reached = [step for step in plan_steps(theirs) if step.round <= origin.round]
    missing = [step for step in reached if not inherited(source, step) and source.finished(step) is None]
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
    changed = [*_other_settings(recipe, theirs), *_other_contents(recipe, origin, source)]
    if changed:
        raise RunError(
            f"the rounds of {origin} were made with other settings: " + "; ".join(changed),
            where=place,
            hint="a fork keeps the initial policy and how policies are measured: take these keys over, or begin anew",
        )
    # The initial policy, where training stands, and the policy that it goes on from.
    for number in sorted({0, origin.round, source.base(origin.round)}):
        if source.recorded_checksum(number, "checkpoint") is not None:
            source.kept(number, "checkpoint")


def _other_settings(recipe: Recipe, theirs: Recipe) -> list[str]:
    """Keys of the initial policy and of evaluation that differ: what the new rounds are compared by."""
    is_evaluated = recipe.data.eval_prompts is not None or theirs.data.eval_prompts is not None
    keys = {*stage_keys(recipe, "sft")}
    if is_evaluated:
        keys |= {*stage_keys(recipe, "evaluate"), *stage_keys(theirs, "evaluate")}
    # The seed orders held-out prompts: another one would set responses to different prompts against each other.
    free = FREE_KEYS if is_evaluated else (*FREE_KEYS, "seed")
    return [
        f"{change.key} was {change.old!r} and is now {change.new!r}"
        for change in differences(resolved(theirs), resolved(recipe))
        if _lies_below(change.key, keys)
        and not _lies_below(change.key, free)
        and not (change.key.startswith("labelers.") and change.key.endswith(".batch_size"))
    ]


def _other_contents(recipe: Recipe, origin: Origin, source: RunFolder) -> list[str]:
    """Files that the initial policy or an evaluation was made from, and that read differently now."""
    found = []
    for step in (Step(0, "sft"), Step(origin.round, "train"), Step(origin.round, "evaluate")):
        record = source.finished(step)
        if record is not None:
            changed = differences(record["inputs"]["files"], step_inputs(recipe, step, {})["files"])
            found += [
                f"the contents of {change.key} have changed"
                for change in changed
                if change.old is not None
                and change.new is not None
                and (step.stage != "train" or change.key.startswith("policy."))  # pairs are the new rounds' own affair
            ]
    return list(dict.fromkeys(found))


def _lies_below(key: str, sections: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def _take_over(source: RunFolder, folder: RunFolder, number: int) -> None:
    """A round's finished artifacts, each verified; large files are shared with the origin where the disk allows it."""
    manifest = source.manifest(number)
    target = folder.artifact(number, "manifest.json").parent
    with writing_folder(target) as temporary:
        for stage in manifest["stages"].values():
            for name in stage["outputs"]:
                if name not in stage.get("dropped", []):
                    _link_or_copy(source.verified(number, name), temporary / name)
        source.write_manifest(temporary / "manifest.json", manifest)


def _link_or_copy(path: Path, target: Path) -> None:
    """A file or a folder of files under another name; modes are our own, whatever the origin's are."""
    if path.is_dir():
        target.mkdir()
        for entry in sorted(path.iterdir()):
            _link_or_copy(entry, target / entry.name)
        return
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def inherited(folder: RunFolder, step: Step) -> bool:
    """Whether a step belongs to a round that was taken over."""
    lineage = folder.lineage()
    return lineage is not None and step.round <= lineage["round"]
