"""Where a run stands: which steps are finished and still true, and whether it may go on."""

from __future__ import annotations

from collections.abc import Sequence

from align_cli.errors import GuardError, RunError
from align_cli.recipe import Recipe
from align_cli.run.fingerprints import Fingerprints, changes
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step, last_of_round, partner


class OtherRunError(RunError):
    """A folder whose finished steps were made from other settings than the recipe's."""


def remaining_steps(folder: RunFolder, recipe: Recipe, plan: Sequence[Step]) -> list[Step]:
    """The plan after those steps at its beginning that are finished and made from what the recipe says now.

    Of the first round that is left, a later step may be finished already, as a reward model that was fitted on its own.

    Raises:
        OtherRunError: if a finished step was made from something else; names every key that changed.
    """
    fingerprints = Fingerprints(recipe, folder.manifests)
    for index, step in enumerate(plan):
        if folder.lineage.inherits(step.round):
            continue
        if folder.manifests.finished(step) is None:
            for later in plan[index + 1 :]:
                if later.round > step.round:
                    break
                _refuse_changed(folder, fingerprints, later)
            return list(plan[index:])
        _refuse_changed(folder, fingerprints, step)
    return []


def is_still_true(folder: RunFolder, recipe: Recipe, step: Step) -> bool:
    """Whether a step is finished, and made from what the recipe says now."""
    record = folder.manifests.finished(step)
    return record is not None and not changes(record["inputs"], Fingerprints(recipe, folder.manifests).of(step))


def _refuse_changed(folder: RunFolder, fingerprints: Fingerprints, step: Step) -> None:
    record = folder.manifests.finished(step)
    found = changes(record["inputs"], fingerprints.of(step)) if record is not None else []
    if found:
        raise OtherRunError(
            f"this folder holds another run: since {step} was finished, " + "; ".join(found),
            where=str(folder.path),
            hint="choose another output_dir for the new settings, put the old ones back (only rounds may be "
            f"raised), or begin anew with {_restart(folder)}, which removes this run",
        )


def refuse_stopped(folder: RunFolder, recipe: Recipe, before: Step | None, step: Step) -> None:
    """Refuse to go on from a round that a guard stopped, until the recipe says otherwise.

    Args:
        folder: the run's folder.
        recipe: the whole recipe.
        before: the step before; None for the first.
        step: what comes next.

    Raises:
        GuardError: if a guard that still says `stop` stopped the run there.
    """
    # A step that is ahead of its round stands before those of the round before, which may be over all the same.
    over = last_of_round(recipe, step.round - 1) if partner(recipe, step) is not None else before
    record = folder.manifests.finished(over) if over is not None else None
    for finding in record.get("guards", []) if record else []:
        guard = getattr(recipe.guards, finding["guard"], None)
        if guard is not None and guard.action == "stop":
            name = f"guards.{finding['guard']}"
            raise GuardError(
                f"stopped before {step}: {finding['message']}",
                where=name,
                hint=f"set {name}.action to warn to go on all the same, or fork another run from an earlier round "
                "(--from)",
            )


def _restart(folder: RunFolder) -> str:
    origin = folder.lineage.origin
    return "--restart" if origin is None else f"--restart --from {origin}"
