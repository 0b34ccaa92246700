"""Offline pairs, the pool of `offline` and `ddp`: responses and label from the dataset, in the policy's tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from align_cli.labelers.dataset import label_pairs
from align_cli.models.text import completion_token_ids, prompt_token_ids
from align_cli.recipe.sections.label import LabelSection
from align_cli.stages.pairing.pairs import LabelledPairs, is_kept

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def label_offline_pairs(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    section: LabelSection,
    labeler: str,
    stop_ids: Collection[int] = (),
) -> LabelledPairs:
    """Offline pairs with their own labels, tokenised by the policy's tokenizer; the same rules leave pairs out.

    Args:
        rows: `prompt`, `chosen`, `rejected`, perhaps `label`.
        tokenizer: the policy's.
        section: the recipe's label section; ties are labels of one half.
        labeler: the labeler's name in the recipe.
        stop_ids: what stops the policy's generation besides the tokenizer's end-of-sequence token.
    """
    counts: Counter[str] = Counter()
    preferences = []
    for pair in label_pairs(rows, labeler):
        prompt_ids = pair.prompt_ids or prompt_token_ids(tokenizer, pair.prompt)
        tokenised = replace(
            pair,
            prompt_ids=prompt_ids,
            chosen_ids=completion_token_ids(tokenizer, pair.prompt, prompt_ids, pair.chosen, stop_ids),
            rejected_ids=completion_token_ids(tokenizer, pair.prompt, prompt_ids, pair.rejected, stop_ids),
        )
        if is_kept(tokenised, pair.label == 0.5, section, counts):
            preferences.append(tokenised)
    counts["pairs"] = len(preferences)
    return LabelledPairs(preferences, dict(sorted(counts.items())))
