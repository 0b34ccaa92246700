"""Offline pairs, the pool of `offline` and `ddp`: responses and label from the dataset, in the policy's tokens.

And what can be wrong with them before there are any tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from align_cli.artifacts.records import Preference
from align_cli.data.lazy import Lazy
from align_cli.data.rows import facts_of
from align_cli.errors import DataError, counted
from align_cli.labelers.dataset import label_pair
from align_cli.models.identity import identity_of
from align_cli.models.text import PolicyText
from align_cli.recipe import Recipe
from align_cli.recipe.sections.label import LabelSection
from align_cli.stages.fates import KeptRows, kept_rows
from align_cli.stages.lengths import Limits, ReadRow
from align_cli.stages.pairing.pairs import RESPONSES, LabelledPairs, Undecided, as_pair, is_kept, none_is_left

KEY = "data.preferences"
"""The key of the pairs that are trained on; what the recipe's `label` says is of them alone."""


def label_offline_pairs(
    rows: Sequence[Mapping[str, Any]],
    policy: PolicyText,
    section: LabelSection,
    labeler: str,
    key: str = KEY,
    limits: Limits | None = None,
    *,
    identify: Callable[[PolicyText], str | None] = identity_of,
) -> LabelledPairs:
    """Offline pairs with their own labels, tokenised by the policy's tokenizer; the same rules leave pairs out.

    Args:
        rows: `prompt`, `chosen`, `rejected`, perhaps `label` and what the prompt's template gets.
        policy: who reads them.
        section: the recipe's label section; ties are labels of one half.
        labeler: the labeler's name in the recipe.
        key: the recipe's key that names them.
        limits: how long they may be; None is as long as fits into the policy's context.
        identify: as of `kept_rows`.

    Raises:
        DataError: for all pairs that the policy cannot read, those that are left out aside; or if none is left.
    """
    limits = limits or Limits(context_length=policy.context_length)
    counts: Counter[str] = Counter()

    def is_wanted(index: int, read: ReadRow) -> bool:
        found: Counter[str] = Counter()
        labelled = as_pair(label_pair(read.row, index, labeler), read)
        tie: Undecided | None = "ties" if labelled.label == 0.5 else None
        kept = is_kept(labelled, tie, section, found)
        if not kept or not limits.exceeded_by(read):  # else it is counted as too long
            counts.update(found)
        return kept

    rules = section.model_dump()
    arguments = (key, rows, "pairs", RESPONSES, policy, limits, counts)
    kept = kept_rows(*arguments, rules=rules, is_wanted=is_wanted, identify=identify)
    preferences = OfflinePairs(kept, labeler)
    if rows and not preferences:
        raise none_is_left(counts, key, "look at how the file was made", by_the_recipe=key == KEY)
    counts["pairs"] = len(preferences)
    return LabelledPairs(preferences, dict(sorted(counts.items())))


class OfflinePairs(Lazy[Preference]):
    """Offline pairs with their labels, each made when it is asked for.

    Args:
        kept: their rows, in the policy's tokens.
        labeler: the labeler's name in the recipe.
    """

    def __init__(self, kept: KeptRows, labeler: str) -> None:
        self._kept, self._labeler = kept, labeler

    def __len__(self) -> int:
        return len(self._kept)

    def item(self, index: int) -> Preference:
        read = self._kept[index]
        return as_pair(label_pair(read.row, self._kept.number(index), self._labeler), read)


def check_labels(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> None:
    """Whether the loss can take the pairs' labels; ties that are left out have none.

    Raises:
        DataError: if it is TRL's own, and some label is below 1.
    """
    facts = facts_of(rows)
    uncertain = facts.uncertain + (0 if recipe.label.ties == "drop" else facts.ties)
    if recipe.method.uses_trl_loss and uncertain:
        have = counted(uncertain, "pair has", "pairs have")
        raise DataError(
            f"{have} a label below 1, and TRL's own losses take hard labels alone",
            where="data.preferences",
            hint="leave these pairs out, or set method.loss_type to sigmoid, ipo, hinge or simpo",
        )
