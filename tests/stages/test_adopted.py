"""Pairs from elsewhere: those with ids that were sampled keep them; whatever the policy cannot read is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_models import STRICT, make_chat_model

from align_cli.artifacts.records import Preference
from align_cli.errors import DataError
from align_cli.models.adapters import AdaptedModel
from align_cli.models.load import Policy, load_policy
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.policy import PolicySection
from align_cli.stages import adopted
from align_cli.stages.lengths import Limits, read_row
from align_cli.stages.pairing.pairs import RESPONSES, as_pair

SAMPLED = Preference("p", "c", "r", prompt_ids=[30, 31], chosen_ids=[32, 4], rejected_ids=[33, 34, 4])
TEXT = Preference("a prompt", "chosen", "rejected")
CONTEXT = 12


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(make_chat_model(tmp_path_factory.mktemp("model") / "m", context_length=CONTEXT, template=STRICT))


def adopted_pairs(pairs: Sequence[Preference], policy: Policy) -> list[Preference]:
    return adopted.adopted_pairs(pairs, policy, Limits(context_length=CONTEXT)).preferences


def as_read(pair: Preference, policy: Policy) -> Preference:
    return as_pair(pair, read_row(vars(pair), RESPONSES, policy, Limits()))


def refused(policy: Policy, *pairs: Preference) -> str:
    with pytest.raises(DataError) as caught:
        adopted_pairs(pairs, policy)
    (fault,) = caught.value.faults
    assert fault.where == ""
    return fault.what


def test_ids_that_were_sampled_stay_and_text_is_made_into_ids(policy: Policy) -> None:
    short = replace(TEXT, prompt="a", chosen="b", rejected="c")
    assert adopted_pairs([SAMPLED, short, SAMPLED], policy) == [SAMPLED, as_read(short, policy), SAMPLED]
    assert adopted_pairs([], policy) == []


@pytest.mark.parametrize("lacking", ["prompt_ids", "chosen_ids", "rejected_ids"])
@pytest.mark.parametrize("nothing", [None, []])
def test_a_pair_with_some_of_its_ids_is_taken_by_its_text(policy: Policy, lacking: str, nothing: Any) -> None:
    (made,) = adopted_pairs([replace(SAMPLED, **{lacking: nothing})], policy)
    assert made == as_read(SAMPLED, policy) != SAMPLED


def test_pairs_that_do_not_fit_or_that_the_template_rejects_are_named_together(policy: Policy) -> None:
    fitting = replace(SAMPLED, rejected_ids=[33] * (CONTEXT - 2))
    assert adopted_pairs([fitting], policy) == [fitting]
    assert (
        refused(policy, fitting, replace(SAMPLED, rejected_ids=[33] * (CONTEXT - 1)))
        == "1 of 2 pairs do not fit into the model's context of 12 tokens: row 1 (13 tokens)"
    )
    with pytest.raises(DataError) as caught:
        rejected = Preference([{"role": "system", "content": "s"}], "c", "r")
        adopted_pairs([rejected, TEXT, rejected], policy)
    assert [fault.what.split(": ")[0] for fault in caught.value.faults] == [
        "2 of 3 pairs cannot be read",
        "1 of 3 pairs do not fit into the model's context of 12 tokens",
    ]
    assert caught.value.faults[0].what.endswith(": row 0, row 2")


@pytest.mark.parametrize("side", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("half", ["\ud800", "\udbff", "\udfff"])
def test_text_that_is_none_is_named(policy: Policy, side: str, half: str) -> None:
    assert refused(policy, SAMPLED, replace(SAMPLED, **{side: f"a {half} b"})) == (
        "pair 1 holds half a surrogate pair, which is no text"
    )


@pytest.mark.parametrize("whole", ["\ud7ff", "\ue000", "\U0001f600"])
def test_text_next_to_that_is_text(policy: Policy, whole: str) -> None:
    pair = replace(SAMPLED, chosen=whole)
    assert adopted_pairs([pair], policy) == [pair]


@pytest.mark.parametrize("side", ["prompt_ids", "chosen_ids", "rejected_ids"])
def test_ids_that_the_vocabulary_has_not_are_named(policy: Policy, side: str) -> None:
    size = policy.model.config.vocab_size
    for within in (0, size - 1):
        pair = replace(SAMPLED, **{side: [within]})
        assert adopted_pairs([pair], policy) == [pair]
    for outside in (-1, size):
        assert refused(policy, SAMPLED, replace(SAMPLED, **{side: [5, outside]})) == (
            f"pair 1 holds token ids that the policy's vocabulary of {size} has not"
        )


def test_the_vocabulary_of_a_policy_whose_embeddings_have_an_adapter_is_its_bases(tmp_path: Path) -> None:
    base = make_chat_model(tmp_path / "base", context_length=CONTEXT, template=STRICT)
    section = LoraSection(rank=2, target_modules=["embed_tokens"])
    adapted_policy = AdaptedModel(PolicySection(model_name_or_path=str(base), lora=section), 0).policy(None)
    assert adopted_pairs([SAMPLED], adapted_policy) == [SAMPLED]
    beyond = replace(SAMPLED, chosen_ids=[adapted_policy.model.config.vocab_size])
    assert refused(adapted_policy, beyond).startswith("pair 0 holds token ids that the policy's vocabulary of ")
