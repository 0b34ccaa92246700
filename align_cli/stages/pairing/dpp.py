"""Pairs of source `dpp`: all pairs of a prompt's responses, labelled by the policy itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from align_cli.artifacts.journal import Journal
from align_cli.artifacts.records import Completion, Preference
from align_cli.labelers.own_labels import NAME, OWN_LABELS
from align_cli.stages.base import Context, Measure, Progress
from align_cli.stages.opinions import measured, num_pair_tokens
from align_cli.stages.pairing.pairs import LabelledPairs, ScoredCompletion, by_draw, make_pair


class Dpp:
    """Pairs the policy's responses, and asks the policy which it prefers."""

    needs: tuple[str, ...] = ("policy", "reference")

    def pair(self, completions: Sequence[Completion], context: Context) -> LabelledPairs:
        """The round's pairs."""
        recipe, loaded = context.recipe, context.loaded
        policy = loaded.policy_after(context.round - 1)
        reference = loaded.reference_for(context.round)
        with context.work.journal("own-labels") as journal:
            pairs = self_label(
                completions,
                loaded.measure(OWN_LABELS, policy, reference, recipe.method.beta),
                recipe.generate.num_generations,
                batch_size=recipe.generate.batch_size,
                progress=context.progress,
                journal=journal,
            )
        return LabelledPairs(pairs, {"self_labelled_pairs": len(pairs)})


def self_label(
    completions: Sequence[Completion],
    measure: Measure,
    num_generations: int,
    *,
    batch_size: int,
    progress: Progress,
    journal: Journal | None = None,
) -> list[Preference]:
    """All pairs of each prompt's completions with the policy's own label: the pairs of source `dpp`.

    None is left out: no score says which to choose, and training sums over both outcomes.

    Args:
        completions: any order.
        measure: of `OWN_LABELS`, taken in all processes.
        num_generations: samples that each draw of a prompt got from it.
        batch_size: pairs that are labelled together.
        progress: told of every labelled pair.
        journal: what was labelled before an interruption, and where each batch is kept; None keeps none.
    """
    own = [ScoredCompletion(item, 0.0) for item in completions if item.sampled_by == "policy"]
    groups = by_draw(own, num_generations).values()
    pairs = [make_pair(one, two, 0.5) for group in groups for one, two in combinations(group, 2)]
    progress.start(len(pairs), "pairs")
    labels = measured(pairs, batch_size, measure, progress, journal or Journal(), num_pair_tokens)
    return [
        replace(pair, label=label, source="dpp", labeler=NAME, chosen_score=None, rejected_score=None)
        for pair, label in zip(pairs, labels, strict=True)
    ]
