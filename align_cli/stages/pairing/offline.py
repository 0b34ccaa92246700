"""Offline pairs, the pool of `offline` and `ddp`: responses and label from the dataset, in the policy's tokens.

And what can be wrong with them before there are any tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from align_cli.errors import DataError
from align_cli.labelers.dataset import label_pairs
from align_cli.models.text import PolicyText
from align_cli.recipe import Recipe
from align_cli.recipe.sections.label import LabelSection
from align_cli.stages.pairing.pairs import LabelledPairs, is_kept, none_is_left
from align_cli.stages.readable import RowFaults, num_tokens, tokenised_pair

KEY = "data.preferences"
"""The key of the pairs that are trained on; what the recipe's `label` says is of them alone."""


def label_offline_pairs(
    rows: Sequence[Mapping[str, Any]],
    policy: PolicyText,
    section: LabelSection,
    labeler: str,
    key: str = KEY,
) -> LabelledPairs:
    """Offline pairs with their own labels, tokenised by the policy's tokenizer; the same rules leave pairs out.

    Args:
        rows: `prompt`, `chosen`, `rejected`, perhaps `label` and what the prompt's template gets.
        policy: who reads them.
        section: the recipe's label section; ties are labels of one half.
        labeler: the labeler's name in the recipe.
        key: the recipe's key that names them.

    Raises:
        DataError: for all pairs that the policy cannot read, those that are left out aside; or if none is left.
    """
    counts: Counter[str] = Counter()
    faults, preferences = RowFaults(key, rows, "pairs"), []
    for index, pair in enumerate(label_pairs(rows, labeler)):
        try:
            tokenised = tokenised_pair(pair, policy)
        except DataError as error:
            faults.add(index, error)
            continue
        if is_kept(tokenised, pair.label == 0.5, section, counts):
            faults.measure(index, num_tokens(tokenised), policy.context_length)
            preferences.append(tokenised)
    faults.raise_if_any(policy.context_length)
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
        raise DataError(
            f"{uncertain} pairs have a label below 1, and TRL's own losses take hard labels alone",
            where="data.preferences",
            hint="leave these pairs out, or set method.loss_type to sigmoid, ipo, hinge or simpo",
        )
