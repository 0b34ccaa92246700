"""Offline pairs: the dataset's own, in the policy's tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawn import DROP, KEEP

from align_cli.errors import DataError
from align_cli.models.load import Policy
from align_cli.models.text import completion_token_ids, prompt_token_ids
from align_cli.recipe import Recipe
from align_cli.recipe.sections.label import LabelSection
from align_cli.stages.lengths import Limits
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


@pytest.fixture
def load(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Recipe]:
    """`load(LabelSection's fields, "method.loss_type=ipo", ...)`: a recipe of offline pairs with such rules."""
    offline = "method.sources={offline: {mixing: 1}}"
    return lambda rules, *overrides: tiny_recipe(tmp_path, offline, *overrides, label=rules)


GOOD = {"prompt": "review of the food :", "chosen": " the food was good .", "rejected": " the food was poor ."}
TIE, EQUAL, EMPTY = {**GOOD, "label": 0.5}, {**GOOD, "rejected": GOOD["chosen"]}, {**GOOD, "chosen": " \n"}
EMPTY_AND_TIED = {**GOOD, "rejected": "", "label": 0.5}


def left(rows: list[dict[str, Any]], policy: Policy, rules: dict[str, str]) -> int:
    return len(label_offline_pairs(rows, policy, LabelSection(**rules), "dataset").preferences)


def test_offline_pairs_of_which_the_rules_leave_none_are_told_by_rule(tiny_policy: Policy) -> None:
    with pytest.raises(DataError) as caught:
        left([TIE, EMPTY, EQUAL, EMPTY_AND_TIED, EMPTY], tiny_policy, DROP)
    (fault,) = caught.value.faults
    assert fault.what == (
        "of 5 pairs none is left: 3 with an empty text, 1 with the same text or the same tokens as chosen and as "
        "rejected, 1 with equal scores or a label of one half"
    )
    assert fault.where == "data.preferences"


@pytest.mark.parametrize(
    ("rows", "number"), [([GOOD], 1), ([TIE, GOOD], 1), ([EMPTY, {**GOOD, "label": 0.75}], 1), ([], 0)]
)
def test_one_offline_pair_is_enough(tiny_policy: Policy, rows: list[dict[str, Any]], number: int) -> None:
    assert left(rows, tiny_policy, DROP) == number


@pytest.mark.parametrize(("rule", "row"), [("ties", TIE), ("equal_texts", EQUAL), ("empty_texts", EMPTY)])
def test_a_rule_that_keeps_pairs_leaves_none_out(tiny_policy: Policy, rule: str, row: dict[str, Any]) -> None:
    assert left([row], tiny_policy, KEEP) == 1
    assert left([row], tiny_policy, {**DROP, rule: "keep"}) == 1
    with pytest.raises(DataError, match="of 1 pair none is left: 1 with"):
        left([row], tiny_policy, {**KEEP, rule: "drop"})


def test_offline_labels_below_one_are_for_losses_of_aligns_own(load: Callable[..., Recipe]) -> None:
    rows = [GOOD, TIE, {**GOOD, "label": 1}, {**GOOD, "label": 0.9}]
    check_labels(load(KEEP), rows)
    check_labels(load(DROP, "method.loss_type=apo_zero"), [rows[0], rows[2]])
    with pytest.raises(DataError) as caught:
        check_labels(load(DROP, "method.loss_type=apo_zero"), rows)
    (fault,) = caught.value.faults
    assert fault.what == "1 pair has a label below 1, and TRL's own losses take hard labels alone"
    assert fault.where == "data.preferences"


def test_offline_pairs_have_to_fit_into_the_context(tiny_policy: Policy) -> None:
    context = tiny_policy.context_length or 0
    room = context - len(prompt_token_ids(tiny_policy.tokenizer, "the food")) - 1
    row = {"prompt": "the food", "chosen": " good" * room, "rejected": " good"}
    keep = LabelSection(**KEEP)
    assert len(label_offline_pairs([row], tiny_policy, keep, "dataset").preferences) == 1
    long = {**row, "rejected": " good" * (room + 1)}
    with pytest.raises(DataError, match=r"^data\.eval_preferences: 1 of 2 pairs do not fit .*: row 1 \(129 tokens"):
        label_offline_pairs([row, long], tiny_policy, keep, "dataset", "data.eval_preferences")


def test_a_pair_is_counted_once_where_rules_and_length_meet(tiny_policy: Policy) -> None:
    long = {**GOOD, "chosen": " good" * 40, "rejected": " poor" * 40}
    rows = [GOOD, long, {**long, "label": 0.5}, {**long, "chosen": "", "label": 0.5}]
    limits = Limits("drop", max_completion_tokens=20)

    def counts(rules: dict[str, str]) -> dict[str, int]:
        return label_offline_pairs(rows, tiny_policy, LabelSection(**rules), "dataset", limits=limits).counts

    assert counts(DROP) == {"empty_texts_dropped": 1, "pairs": 1, "ties_dropped": 1, "too_long_dropped": 1}
    assert counts(KEEP) == {"pairs": 1, "too_long_dropped": 3}
    with pytest.raises(DataError, match=r"of 2 pairs none is left: 1 with equal scores .*, 1 longer than they may be"):
        label_offline_pairs(rows[1:3], tiny_policy, LabelSection(**DROP), "dataset", limits=limits)


def test_answers_that_are_the_same_once_they_are_cut_are_no_pair(tiny_policy: Policy) -> None:
    alike = {**GOOD, "chosen": " good" * 10, "rejected": " good" * 10 + " food"}
    with pytest.raises(DataError, match="1 with the same text or the same tokens as chosen and as rejected"):
        limits = Limits("cut", max_completion_tokens=10)
        label_offline_pairs([alike], tiny_policy, LabelSection(**DROP), "dataset", limits=limits)


def test_ties_that_are_left_out_are_no_labels_that_a_loss_of_trls_has_to_take(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    offline = {"loss_type": "robust", "label_smoothing": 0.1, "sources": {"offline": {"mixing": 1.0}}}
    ties = [row for row in OFFLINE if row.get("label") in (None, 0.5)]
    check_labels(tiny_recipe(tmp_path, "label.ties=drop", method=offline), ties)
    with pytest.raises(DataError, match="1 pair has a label below 1"):
        check_labels(tiny_recipe(tmp_path, "label.ties=drop", method=offline), OFFLINE)
