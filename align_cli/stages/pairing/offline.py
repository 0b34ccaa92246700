"""Offline pairs, the pool of `offline` and `ddp`: responses and label from the dataset, in the policy's tokens.

And what can be wrong with them before there are any tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from align_cli.errors import DataError, counted
from align_cli.labelers.dataset import label_pairs
from align_cli.models.text import PolicyText
from align_cli.recipe import Recipe
from align_cli.recipe.sections.label import LabelSection
from align_cli.stages.lengths import Limits, ReadRow
from align_cli.stages.pairing.pairs import RESPONSES, LabelledPairs, Undecided, as_pair, is_kept, none_is_left
from align_cli.stages.readable import rows_within

KEY = "data.preferences"
"""The key of the pairs that are trained on; what the recipe's `label` says is of them alone."""


def label_offline_pairs(
    rows: Sequence[Mapping[str, Any]],
    policy: PolicyText,
    section: LabelSection,
    labeler: str,
    key: str = KEY,
    limits: Limits | None = None,
) -> LabelledPairs:
    """Offline pairs with their own labels, tokenised by the policy's tokenizer; the same rules leave pairs out.

    Args:
        rows: `prompt`, `chosen`, `rejected`, perhaps `label` and what the prompt's template gets.
        policy: who reads them.
        section: the recipe's label section; ties are labels of one half.
        labeler: the labeler's name in the recipe.
        key: the recipe's key that names them.
        limits: how long they may be; None is as long as fits into the policy's context.

    Raises:
        DataError: for all pairs that the policy cannot read, those that are left out aside; or if none is left.
    """
    limits = limits or Limits(context_length=policy.context_length)
    counts: Counter[str] = Counter()
    labelled = label_pairs(rows, labeler)

    def is_wanted(index: int, read: ReadRow) -> bool:
        found: Counter[str] = Counter()
        tie: Undecided | None = "ties" if labelled[index].label == 0.5 else None
        kept = is_kept(as_pair(labelled[index], read), tie, section, found)
        if not kept or not limits.exceeded_by(read):  # else it is counted as too long
            counts.update(found)
        return kept

    within = rows_within(key, rows, "pairs", RESPONSES, policy, limits, counts, is_wanted=is_wanted)
    preferences = [as_pair(labelled[index], read) for index, read in within]
    if rows and not preferences:
        raise none_is_left(counts, key, "look at how the file was made", by_the_recipe=key == KEY)
    counts["pairs"] = len(preferences)
    return LabelledPairs(preferences, dict(sorted(counts.items())))


def check_labels(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> None:
    """Whether the loss can take the pairs' labels; ties that are left out have none.

    Raises:
        DataError: if it is TRL's own, and some label is below 1.
    """
    labels = [float(row.get("label", 1.0)) for row in rows]
    uncertain = sum(label != 1 and not (label == 0.5 and recipe.label.ties == "drop") for label in labels)
    if recipe.method.uses_trl_loss and uncertain:
        have = counted(uncertain, "pair has", "pairs have")
        raise DataError(
            f"{have} a label below 1, and TRL's own losses take hard labels alone",
            where="data.preferences",
            hint="leave these pairs out, or set method.loss_type to sigmoid, ipo, hinge or simpo",
        )
