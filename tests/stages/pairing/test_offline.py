"""Offline pairs: the dataset's own, in the policy's tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from drawn import DROP, KEEP

from align_cli.errors import DataError
from align_cli.models.load import Policy
from align_cli.models.text import completion_token_ids, prompt_token_ids
from align_cli.recipe import Recipe
from align_cli.recipe.sections.label import LabelSection
from align_cli.stages.pairing.offline import check_labels, label_offline_pairs

OFFLINE = [
    {"prompt": "review of the food :", "chosen": " the food was good .", "rejected": " the food was poor ."},
    {"prompt": "review of the food :", "chosen": " the food was good .", "rejected": "", "label": 0.75},
    {"prompt": "review of the food :", "chosen": " the food was good .", "rejected": " the food was good ."},
    {
        "prompt": "review of the food :",
        "chosen": " the food was poor .",
        "rejected": " the food was fine .",
        "label": 0.5,
    },
]


def test_offline_pairs_are_tokenised_behind_their_prompt(tiny_policy: Policy) -> None:
    tokenizer = tiny_policy.tokenizer
    made = label_offline_pairs(OFFLINE, tiny_policy, LabelSection(**KEEP), "dataset")
    assert len(made.preferences) == len(OFFLINE)
    for row, pair in zip(OFFLINE, made.preferences, strict=True):
        prompt_ids = prompt_token_ids(tokenizer, row["prompt"])
        assert pair.prompt_ids == prompt_ids
        assert pair.chosen_ids == completion_token_ids(tokenizer, row["prompt"], prompt_ids, row["chosen"])
        assert pair.rejected_ids == completion_token_ids(tokenizer, row["prompt"], prompt_ids, row["rejected"])
        assert pair.chosen_ids[-1] == tokenizer.eos_token_id
        assert (pair.source, pair.labeler, pair.round) == ("offline", "dataset", 0)
        assert (pair.chosen_by, pair.rejected_by, pair.policy) == ("dataset", "dataset", None)


def test_offline_pairs_keep_their_labels_and_are_counted(tiny_policy: Policy) -> None:
    made = label_offline_pairs(OFFLINE, tiny_policy, LabelSection(**KEEP), "dataset")
    assert [pair.label for pair in made.preferences] == [1.0, 0.75, 1.0, 0.5]
    assert made.counts == {"empty_texts_kept": 1, "equal_texts_kept": 1, "pairs": 4, "ties_kept": 1}
    made = label_offline_pairs(OFFLINE, tiny_policy, LabelSection(**DROP), "dataset")
    assert [pair.prompt_index for pair in made.preferences] == [0]
    assert made.counts == {"empty_texts_dropped": 1, "equal_texts_dropped": 1, "pairs": 1, "ties_dropped": 1}
    assert list(made.counts) == sorted(made.counts)


def test_every_pair_that_the_policy_cannot_read_is_told(tiny_policy: Policy) -> None:
    """A chat, say, for a policy without a template: also those behind the first."""
    asked, told = [{"role": "user", "content": "why?"}], [{"role": "assistant", "content": "because"}]
    chat = {"prompt": asked, "chosen": told, "rejected": told}
    rows = [OFFLINE[0], chat, OFFLINE[1], chat]
    with pytest.raises(DataError) as caught:
        label_offline_pairs(rows, tiny_policy, LabelSection(**KEEP), "dataset")
    what = "this is a chat, and the policy's tokenizer has no chat template"
    assert str(caught.value).startswith(f"data.preferences: 2 of 4 pairs cannot be read: {what}: row 1, row 3")


def test_ties_that_are_left_out_are_no_labels_that_a_loss_of_trls_has_to_take(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    offline = {"loss_type": "robust", "label_smoothing": 0.1, "sources": {"offline": {"mixing": 1.0}}}
    ties = [row for row in OFFLINE if row.get("label") in (None, 0.5)]
    check_labels(tiny_recipe(tmp_path, "label.ties=drop", method=offline), ties)
    with pytest.raises(DataError, match="1 pairs have a label below 1"):
        check_labels(tiny_recipe(tmp_path, "label.ties=drop", method=offline), OFFLINE)
