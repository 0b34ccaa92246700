"""Checkpoints that nothing needs any more are let go, and of all but the newest the optimizer's state.

Decided from the manifests alone, after they were written: a process that was killed in between decides the same.
"""

from __future__ import annotations

from align_cli.recipe import Recipe
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step, is_last_of_round
from align_cli.run.results import Results
from align_cli.stages.base import CHECKPOINT, Artifact
from align_cli.training.checkpoints import OPTIMIZER_NAME


def let_go(results: Results, folder: RunFolder, step: Step) -> None:
    """Let go of what the recipe does not ask to keep.

    The initial policy's checkpoint stays, the best round's, those of the latest `checkpoints.keep` rounds that have
    one, and whatever the next step begins with.

    Args:
        results: say how many, and which round is the best.
        folder: locked by the caller.
        step: the last one that is finished.
    """
    recipe, manifests = results.recipe, folder.manifests
    kept = [number for number in manifests.rounds() if number and manifests.is_kept(Artifact(number, CHECKPOINT))]
    if not kept:
        return
    if recipe.checkpoints.keep is not None:
        # With the previous policy as reference, a round's evaluation needs two.
        is_over = is_last_of_round(recipe, step) and recipe.policy.reference == "initial"
        counted = kept if is_over or kept[-1] < step.round else kept[:-1]
        for number in set(counted[: -recipe.checkpoints.keep]) - {results.best_round()}:
            manifests.drop(Artifact(number, CHECKPOINT))
    if recipe.checkpoints.optimizer == "newest":
        needed = {kept[-1], manifests.base(step.round), results.best_round() if _may_roll_back(recipe) else None}
        for number in kept:
            checkpoint = Artifact(number, CHECKPOINT)
            if number not in needed and manifests.has_member(checkpoint, OPTIMIZER_NAME):
                manifests.drop_member(checkpoint, OPTIMIZER_NAME)


def _may_roll_back(recipe: Recipe) -> bool:
    """Whether a guard may have training go on from the best round, with that round's moments."""
    guards = (getattr(recipe.guards, name) for name in type(recipe.guards).model_fields)
    return any(guard is not None and guard.action == "rollback" for guard in guards)
