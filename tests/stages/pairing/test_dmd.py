"""Pairs of source `dmd`: a demonstration over the policy's response to its prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from drawn import KEEP

from align_cli.artifacts.records import Completion, Preference
from align_cli.models.load import Policy
from align_cli.models.text import completion_token_ids, prompt_token_ids
from align_cli.recipe.sections.label import LabelSection
from align_cli.stages.fates import kept_rows
from align_cli.stages.inputs import ReadDemonstrations
from align_cli.stages.lengths import Limits, ReadRow, read_row
from align_cli.stages.pairing.dmd import Dmd, pair_with_demonstrations
from align_cli.stages.pairing.pairs import LabelledPairs

SHOWN = [
    {"prompt": "prompt 0 :", "completion": " the food was good ."},
    {"prompt": "prompt 1 :", "completion": " the room was quiet ."},
    {"prompt": "prompt 1 :", "completion": " the bed was soft ."},
    {"prompt": "prompt 1 :", "completion": " we liked the pool ."},
]


def pair_with(
    policy: Policy, completions: Sequence[Completion], shown: Any = SHOWN, run_seed: int = 0, **section: Any
) -> LabelledPairs:
    rules = LabelSection(**{**KEEP, **section})
    return pair_with_demonstrations(completions, read(shown, policy), rules, run_seed)


def read(shown: Any, policy: Policy) -> list[ReadRow]:
    return [read_row(row, ("completion",), policy, Limits()) for row in shown]


def test_a_mixed_pair_chooses_the_demonstration_and_rejects_what_was_sampled(
    tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    completion = make_completion(0, 2, completion_ids=[7, 8, 9], logps=[-0.5, -0.25, -1.0], round=3)
    made = pair_with(tiny_policy, [completion])
    text = SHOWN[0]["completion"]
    assert made.preferences == [
        Preference(
            prompt="prompt 0 :",
            chosen=text,
            rejected=" answer 2 .",
            label=1.0,
            source="dmd",
            labeler="dataset",
            prompt_ids=completion.prompt_ids,
            chosen_ids=completion_token_ids(tiny_policy.tokenizer, "prompt 0 :", completion.prompt_ids, text),
            rejected_ids=[7, 8, 9],
            rejected_logp=-1.75,
            round=3,
            prompt_index=0,
            rejected_index=2,
            policy=completion.policy,
            chosen_by="dataset",
            rejected_by="policy",
        )
    ]
    assert made.counts == {"mixed_pairs": 1}
    (pair,) = made.preferences
    assert pair.chosen_ids and pair.chosen_ids[-1] == tiny_policy.tokenizer.eos_token_id
    assert Preference.from_dict(pair.to_dict()) == pair


def test_what_the_policy_sampled_is_rejected_token_by_token_even_where_its_text_has_another_spelling(
    tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    tokenizer = tiny_policy.tokenizer
    sampled = [7, tokenizer.pad_token_id, 8]
    text = tokenizer.decode(sampled, skip_special_tokens=True)
    assert tokenizer.encode(text, add_special_tokens=False) == [7, 8]
    (pair,) = pair_with(tiny_policy, [make_completion(0, completion=text, completion_ids=sampled)]).preferences
    assert (pair.rejected, pair.rejected_ids) == (text, sampled)


def test_of_several_demonstrations_each_response_gets_a_seeded_one(
    tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    completions = [make_completion(1, sample) for sample in range(60)]
    pairs = pair_with(tiny_policy, completions).preferences
    chosen = [pair.chosen for pair in pairs]
    assert [chosen.count(row["completion"]) for row in SHOWN[1:]] == pytest.approx([20, 20, 20], abs=12)
    backwards = pair_with(tiny_policy, completions[::-1]).preferences[::-1]
    assert backwards == pairs
    assert pair_with(tiny_policy, completions[30:]).preferences == pairs[30:]
    assert [pair.chosen for pair in pair_with(tiny_policy, completions, run_seed=1).preferences] != chosen
    later = [replace(completion, round=2) for completion in completions]
    assert [pair.chosen for pair in pair_with(tiny_policy, later).preferences] != chosen


def test_a_prompt_without_a_demonstration_is_counted(
    tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    completions = [make_completion(prompt, sample) for prompt in (0, 5, 1) for sample in range(2)]
    made = pair_with(tiny_policy, completions)
    assert list(made.counts.items()) == [("mixed_pairs", 4), ("without_demonstration", 2)]
    assert [pair.prompt_index for pair in made.preferences] == [0, 0, 1, 1]
    assert pair_with(tiny_policy, completions, shown=[]).counts == {"mixed_pairs": 0, "without_demonstration": 6}
    assert pair_with(tiny_policy, []) == LabelledPairs([], {"mixed_pairs": 0})


def test_the_references_responses_are_in_no_mixed_pair(
    tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    completions = [
        make_completion(0),
        make_completion(0, sampled_by="reference"),
        make_completion(7, sampled_by="reference"),
    ]
    assert pair_with(tiny_policy, completions).counts == {"mixed_pairs": 1}


def test_chat_prompts_are_paired_with_the_demonstrations_of_the_same_chat(
    tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    def chat(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    def reply(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    shown = [
        {"prompt": chat("why?"), "completion": reply("because")},
        {"prompt": "why?", "completion": " not a chat"},
        {"prompt": [{"role": "system", "content": "be brief"}, *chat("why?")], "completion": reply("so")},
    ]
    tokenizer = tiny_policy.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }}{% if m['role'] == 'assistant' %}"
        "{{ eos_token }}{% endif %} {% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
    )
    try:
        ids = prompt_token_ids(tokenizer, chat("why?"))
        completion = make_completion(0, prompt=chat("why?"), prompt_ids=ids, completion=reply("no idea"))
        other = make_completion(1, prompt=chat("how?"), completion=reply("so"))
        made = pair_with(tiny_policy, [completion, other], shown)
        expected = completion_token_ids(tokenizer, chat("why?"), ids, reply("because"))
    finally:
        tokenizer.chat_template = None
    assert made.counts == {"mixed_pairs": 1, "without_demonstration": 1}
    (pair,) = made.preferences
    assert (pair.prompt, pair.chosen, pair.rejected) == (chat("why?"), reply("because"), reply("no idea"))
    assert (pair.chosen_ids, pair.rejected_ids) == (expected, completion.completion_ids)


def test_a_response_that_repeats_its_demonstration_is_kept_or_dropped(
    tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    text = SHOWN[0]["completion"]
    prompt_ids = make_completion(0).prompt_ids
    ids = completion_token_ids(tiny_policy.tokenizer, "prompt 0 :", prompt_ids, text)
    same = [make_completion(0, 0, completion=text, completion_ids=ids), make_completion(0, 1)]
    assert pair_with(tiny_policy, same).counts == {"equal_texts_kept": 1, "mixed_pairs": 2}
    dropped = pair_with(tiny_policy, same, equal_texts="drop")
    assert dropped.counts == {"equal_texts_dropped": 1, "mixed_pairs": 1}
    assert [pair.rejected_index for pair in dropped.preferences] == [1]
    cut = make_completion(0, 0, completion=text, completion_ids=ids[:-1])
    assert pair_with(tiny_policy, [cut], equal_texts="drop").counts == {"mixed_pairs": 1}, "other tokens, same text"


def test_mixed_pairs_with_an_empty_side_are_kept_or_dropped_and_are_never_ties(
    tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    empty = make_completion(0, completion="", completion_ids=[1])
    assert pair_with(tiny_policy, [empty]).counts == {"empty_texts_kept": 1, "mixed_pairs": 1}
    assert pair_with(tiny_policy, [empty], empty_texts="drop").counts == {"empty_texts_dropped": 1, "mixed_pairs": 0}
    nothing_shown = [{"prompt": "prompt 0 :", "completion": ""}]
    full = make_completion(0)
    assert pair_with(tiny_policy, [full], nothing_shown, empty_texts="drop").preferences == []
    assert pair_with(tiny_policy, [full], ties="drop", min_margin=5.0).counts == {"mixed_pairs": 1}


def test_a_rounds_mixed_pairs_are_made_without_the_policys_weights(
    tiny_policy: Policy, make_completion: Callable[..., Completion]
) -> None:
    completions = [make_completion(1, sample) for sample in range(4)]
    rows = kept_rows("data.demonstrations", SHOWN, "demonstrations", ("completion",), tiny_policy, Limits(), Counter())
    shown = SimpleNamespace(demonstrations=ReadDemonstrations(rows, {}))
    recipe = SimpleNamespace(label=LabelSection(**KEEP), seed=5)
    context: Any = SimpleNamespace(recipe=recipe, loaded=SimpleNamespace(inputs=shown), round=3)
    assert Dmd().pair(completions, context) == pair_with(tiny_policy, completions, run_seed=5)
    assert Dmd().needs == ()


def test_the_demonstrations_of_a_run_are_these(tiny_policy: Policy, make_completion: Callable[..., Completion]) -> None:
    """Golden: another choice would change every run that is under way."""
    pairs = pair_with(tiny_policy, [make_completion(1, sample) for sample in range(8)]).preferences
    texts = [row["completion"] for row in SHOWN[1:]]
    assert [texts.index(str(pair.chosen)) for pair in pairs] == [0, 2, 0, 1, 2, 0, 2, 1]
