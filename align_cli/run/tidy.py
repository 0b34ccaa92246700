"""Checkpoints that nothing needs any more are let go, and what `align` left behind when it was killed meanwhile.

Decided from the manifests alone, after they were written: a process that was killed in between decides the same.
"""

from __future__ import annotations

from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step, is_last_of_round
from align_cli.run.results import Results
from align_cli.stages.base import CHECKPOINT, Artifact


def let_go(results: Results, folder: RunFolder, step: Step) -> None:
    """Keep the checkpoints of the latest rounds, of the initial policy and of the best round.

    Args:
        results: say how many, and which round is the best.
        folder: locked by the caller.
        step: the last one that is finished.
    """
    recipe, manifests = results.recipe, folder.manifests
    keep = recipe.checkpoints.keep
    kept = [number for number in manifests.rounds() if number and manifests.is_kept(Artifact(number, CHECKPOINT))]
    if keep is None or not kept:
        return
    # The newest counts when its round is over; with the previous policy as reference a round needs two.
    is_over = is_last_of_round(recipe, step) and recipe.policy.reference == "initial"
    counted = kept if is_over else kept[:-1]
    best = results.best_round()
    for number in counted[:-keep]:
        if number != best:
            manifests.drop(Artifact(number, CHECKPOINT))
