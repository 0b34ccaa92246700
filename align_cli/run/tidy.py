"""Checkpoints that nothing needs any more are let go, and of all but the newest the optimizer's state.

Decided from the manifests alone, after they were written: a process that was killed in between decides the same.
"""

from __future__ import annotations

from typing import NamedTuple

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
    for unneeded in superfluous(results, folder, step):
        if unneeded.member is None:
            folder.manifests.drop(unneeded.artifact)
        else:
            folder.manifests.drop_member(unneeded.artifact, unneeded.member)


class Superfluous(NamedTuple):
    """An artifact, or one file of it, that nothing needs any more."""

    artifact: Artifact
    member: str | None = None


def superfluous(results: Results, folder: RunFolder, step: Step) -> list[Superfluous]:
    """What `let_go` lets go."""
    recipe, manifests = results.recipe, folder.manifests
    kept = [number for number in manifests.rounds() if number and manifests.is_kept(Artifact(number, CHECKPOINT))]
    if not kept:
        return []
    is_over = is_last_of_round(recipe, step)
    # Where a killed process would begin again, and what the rounds since began with. Before its evaluation, a round's
    # reference may have to be trained again too.
    begins = kept[-1] if is_over or len(kept) == 1 else kept[-2]
    # What is sampled ahead is sampled from the policy of a round earlier.
    earliest = max(begins - recipe.generate.rounds_ahead, 0)
    starts = {manifests.base(number) for number in range(earliest, step.round + 1)}
    unneeded: set[int] = set()
    if recipe.checkpoints.keep is not None:
        # With the previous policy as reference, a round's evaluation needs the checkpoint before too.
        needs_two = kept[-1] == step.round and not (is_over and recipe.policy.reference == "initial")
        counted = kept[:-1] if needs_two else kept
        unneeded = set(counted[: -recipe.checkpoints.keep]) - {results.best_round(), *starts}
    found = [Superfluous(Artifact(number, CHECKPOINT)) for number in sorted(unneeded)]
    if recipe.checkpoints.optimizer == "newest":
        needed = {begins, kept[-1], *starts, results.best_round() if _may_roll_back(recipe) else None}
        checkpoints = (Artifact(number, CHECKPOINT) for number in kept if number not in needed | unneeded)
        found += [Superfluous(one, OPTIMIZER_NAME) for one in checkpoints if manifests.has_member(one, OPTIMIZER_NAME)]
    return found


def _may_roll_back(recipe: Recipe) -> bool:
    """Whether a guard may have training go on from the best round, with that round's moments."""
    guards = (getattr(recipe.guards, name) for name in type(recipe.guards).model_fields)
    return any(guard is not None and guard.action == "rollback" for guard in guards)
