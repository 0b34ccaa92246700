"""Going on differently: a run that begins with the first rounds of another.

The rounds are taken over as they are, file by file; nothing of them is made again, whatever the new recipe says. They
are copies, so that neither run can damage the other's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from align_cli import stages
from align_cli.artifacts.files import copy_tree, writing_folder
from align_cli.errors import RunError
from align_cli.recipe import Recipe, differences, resolved
from align_cli.run.fingerprints import Fingerprints, lies_below
from align_cli.run.folder import RunFolder
from align_cli.run.folder.layout import MANIFEST
from align_cli.run.folder.lineage import Origin
from align_cli.run.folder.manifest import write_manifest
from align_cli.run.plan import plan_steps
from align_cli.stages.base import CHECKPOINT, Artifact


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
    return None if folder.exists else folder.lineage.origin


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
        folder.lineage.write(origin)
        for number in range(origin.round + 1):
            _take_over(RunFolder(origin.run), folder, number)
    except Exception:
        folder.drop_interrupted_fork()
        raise
    folder.manifests.forget()


def _is_from(folder: RunFolder, origin: Origin) -> bool:
    found = folder.lineage.origin
    return found is not None and found.round == origin.round and found.run.resolve() == origin.run.resolve()


def _check_origin(recipe: Recipe, origin: Origin, source: RunFolder) -> None:
    place = str(origin.run)
    theirs = source.recipe()
    reached = [step for step in plan_steps(theirs) if step.round <= origin.round]
    missing = [
        step for step in reached if not source.lineage.inherits(step.round) and source.manifests.finished(step) is None
    ]
    if missing or origin.round > theirs.rounds:
        raise RunError(
            f"the run has not finished round {origin.round}",
            where=place,
            hint=f"see `align status {origin.run}` for how far it is; {_rounds_in_words(source, theirs)}",
        )
    if recipe.rounds <= origin.round:
        raise RunError(
            f"rounds is {recipe.rounds}, and {origin.round} are taken over from {origin}: there is nothing left to do",
            where="rounds",
            hint=f"set rounds to {origin.round + 1} or more",
        )
    changed = [*_other_settings(recipe, theirs), *_other_contents(recipe, theirs, origin, source)]
    if changed:
        raise RunError(
            f"the rounds of {origin} were made with other settings: " + "; ".join(changed),
            where=place,
            hint="a fork keeps the initial policy and how policies are measured: take these keys over, or begin anew",
        )
    if origin.round and not source.manifests.holds(Artifact(origin.round, CHECKPOINT)):
        raise RunError(
            f"the run keeps no checkpoint of round {origin.round} (checkpoints.every_rounds)",
            where=str(origin),
            hint=_rounds_in_words(source, theirs),
        )
    # The initial policy, where training stands, and the policy that it goes on from.
    for number in sorted({0, origin.round, source.manifests.base(origin.round)}):
        if source.manifests.holds(Artifact(number, CHECKPOINT)):
            source.manifests.kept(Artifact(number, CHECKPOINT))


def _rounds_in_words(source: RunFolder, recipe: Recipe) -> str:
    """Which rounds a run can be forked from: those that have a checkpoint, and the initial policy's."""
    rounds = range(recipe.rounds + 1)
    kept = [one for one in rounds if one == 0 or source.manifests.is_kept(Artifact(one, CHECKPOINT))]
    return f"it can be forked from round {' or '.join(map(str, kept))}"


def shared_by_forks(recipe: Recipe) -> dict[str, Any]:
    """The keys that a fork of this recipe's run has to leave as they are, with their values.

    Runs that agree in all of them can begin with one another's initial policy and its evaluation.
    """
    return {key: value for key, value in _leaves(resolved(recipe)) if _is_fixed(key, recipe)}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_fixed(key: str, *recipes: Recipe) -> bool:
    """Whether a fork has to leave a key as it was, by the word of any stage under either recipe."""
    if key.startswith("labelers.") and key.endswith(".batch_size"):
        return False
    found = [stage.fork_keys(recipe) for stage in stages.STAGES for recipe in recipes]
    return any(lies_below(key, keys.fixed) and not lies_below(key, keys.free) for keys in found)


def _other_settings(recipe: Recipe, theirs: Recipe) -> list[str]:
    """Keys that differ and may not: what the new rounds are compared by."""
    return [
        f"{change.key} was {change.old!r} and is now {change.new!r}"
        for change in differences(resolved(theirs), resolved(recipe))
        if _is_fixed(change.key, recipe, theirs)
    ]


def _other_contents(recipe: Recipe, theirs: Recipe, origin: Origin, source: RunFolder) -> list[str]:
    """Files that read differently now, and that the initial policy or an evaluation was made from."""
    found, fingerprints = [], Fingerprints(recipe, source.manifests)
    for step in plan_steps(theirs):
        record = source.manifests.finished(step) if step.round in (0, origin.round) else None
        if record is not None:
            found += [
                f"the contents of {change.key} have changed"
                for change in differences(record["inputs"]["files"], fingerprints.of(step)["files"])
                if change.old is not None and change.new is not None and _is_fixed(change.key, recipe, theirs)
            ]
    return list(dict.fromkeys(found))


def _take_over(source: RunFolder, folder: RunFolder, number: int) -> None:
    """A round's finished artifacts, each verified, and its manifest."""
    manifest = source.manifests.of_round(number)
    target = folder.manifests.place(Artifact(number, CHECKPOINT)).parent
    with writing_folder(target) as temporary:
        for record in manifest["stages"].values():
            for name in record["outputs"]:
                if name not in record.get("dropped", []):
                    copy_tree(source.manifests.verified(Artifact(number, name)), temporary / name)
        write_manifest(temporary / MANIFEST, manifest)
