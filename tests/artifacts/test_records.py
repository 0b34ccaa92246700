from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts.records import (
    SCHEMA_VERSION,
    Completion,
    Evaluation,
    MalformedRecordError,
    Preference,
    Record,
    TemplateArguments,
)

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
EVALUATION = {
    "round": 1,
    "policy": "0123456789abcdef",
    "num_prompts": 2,
    "scorer": "hidden",
    "reward": {"mean": 1.0, "standard_error": 0.5},
    "against": {
        "initial": {"win_rate": 0.5, "low": 0.0, "high": 1.0, "wins": 1, "ties": 0, "losses": 1, "policy": "x"}
    },
    "kl": {"mean": 0.0, "standard_error": 0.0, "reference": "x"},
    "length": {"mean": 3.0, "standard_error": 0.0},
    "eos_rate": 1.0,
    "distinct_2": 0.5,
    "preferences": {"accuracy": 0.5, "margin": 0.0, "num_pairs": 4},
    "sampling": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 16},
}
TEXT_OR_MESSAGES = "input should be a valid string or a list of messages"
CHAT = [{"role": "user", "content": "why?"}]
REPLY = [{"role": "assistant", "content": "because"}]


def schema_of(kind: type[Record]) -> dict[str, str]:
    return {field.name: str(field.type) for field in dataclasses.fields(kind)}


def test_the_fields_of_the_artifacts_are_those_of_their_schema_version() -> None:
    """A change here changes what other people's scripts read: raise SCHEMA_VERSION and write a new golden file."""
    golden = json.loads((Path(__file__).parent / f"schema_{SCHEMA_VERSION}.json").read_text(encoding="utf-8"))
    assert {kind.__name__: schema_of(kind) for kind in (Completion, Preference, Evaluation)} == golden


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Preference, PAIR),
        (Preference, {**PAIR, "label": 0.5, "chosen_ids": [1, 2], "chosen_score": -1.5, "round": 2, "policy": "v"}),
        (Preference, {"prompt": CHAT, "chosen": REPLY, "rejected": REPLY}),
        (Preference, {"prompt": CHAT, "chosen": REPLY, "rejected": REPLY, "tools": [{"name": "adder"}]}),
        (Preference, {"prompt": CHAT, "chosen": REPLY, "rejected": REPLY, "chat_template_kwargs": {"brief": True}}),
        (Preference, {**PAIR, "source": "dmd", "chosen_by": "dataset", "rejected_by": "policy", "rejected_logp": -2.0}),
        (Preference, {**PAIR, "source": "dpr", "chosen_by": "reference", "rejected_by": "policy"}),
        (Evaluation, EVALUATION),
        (Evaluation, {**EVALUATION, "scorer": None, "reward": None, "against": {}, "preferences": None}),
    ],
)
def test_a_record_survives_json(kind: type[Record], row: dict[str, Any]) -> None:
    record = kind.from_dict(row)
    again = kind.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record
    assert {key: record.to_dict()[key] for key in row} == row


def test_a_completion_survives_json(make_completion: Callable[..., Completion]) -> None:
    for completion in (make_completion(), make_completion(prompt=CHAT, completion=REPLY)):
        assert Completion.from_dict(json.loads(json.dumps(completion.to_dict()))) == completion


def test_the_keys_of_a_record_stand_in_the_order_of_its_fields() -> None:
    row = dict(reversed(Preference.from_dict(PAIR).to_dict().items()))
    names = [field.name for field in dataclasses.fields(Preference)]
    wanted = [name for name in names if name not in Preference.left_out]
    assert list(Preference.from_dict(row).to_dict()) == wanted
    assert Preference.left_out, "some are left out where there is nothing in them"
    win_rates = {"rejected_win_rate": 0.25, "chosen_win_rate": 0.75}
    said = {**win_rates, "verdicts": {"judge": 1.0}, "rejected_scores": {"other": 0.0}, "chosen_scores": {"other": 1.0}}
    told = {"chat_template_kwargs": {"brief": True}, "tools": [{"name": "adder"}], "rounds_behind": 1}
    row = {**told, **said, **row}
    assert list(Preference.from_dict(row).to_dict()) == names


def test_keys_that_a_record_does_not_know_are_left_out() -> None:
    assert Preference.from_dict({**PAIR, "note": "mine", "id": 3}) == Preference(**PAIR)


@pytest.mark.parametrize("key", ["prompt", "chosen", "rejected"])
def test_a_missing_key_is_named(key: str) -> None:
    row = {name: value for name, value in PAIR.items() if name != key}
    with pytest.raises(MalformedRecordError, match=f"^key '{key}' is missing$"):
        Preference.from_dict(row)


@pytest.mark.parametrize("key", ["scorer", "reward", "against", "preferences", "sampling"])
def test_a_missing_key_of_an_evaluation_is_named(key: str) -> None:
    row = {name: value for name, value in EVALUATION.items() if name != key}
    with pytest.raises(MalformedRecordError, match=f"^key '{key}' is missing$"):
        Evaluation.from_dict(row)


def test_every_key_of_a_completion_is_required_but_who_sampled_it(
    make_completion: Callable[..., Completion],
) -> None:
    row = make_completion().to_dict()
    assert row.pop("sampled_by") == Completion.from_dict(row).sampled_by == "policy"
    for key in row:
        with pytest.raises(MalformedRecordError, match=f"^key '{key}' is missing$"):
            Completion.from_dict({name: value for name, value in row.items() if name != key})


def test_a_pair_that_says_nothing_of_itself_is_a_datasets() -> None:
    pair = Preference.from_dict(PAIR)
    assert (pair.chosen_by, pair.rejected_by) == ("dataset", "dataset")
    assert (pair.label, pair.source, pair.labeler, pair.round) == (1.0, "offline", "dataset", 0)


@pytest.mark.parametrize("sampler", ["dataset", "model", None, 1])
def test_only_the_policy_and_the_reference_sample(make_completion: Callable[..., Completion], sampler: Any) -> None:
    with pytest.raises(MalformedRecordError, match=r"^key 'sampled_by': input should be 'policy' or 'reference'$"):
        Completion.from_dict({**make_completion().to_dict(), "sampled_by": sampler})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen_by": "reward"}, "key 'chosen_by': input should be 'dataset', 'policy' or 'reference'"),
        ({"rejected_by": None}, "key 'rejected_by': input should be 'dataset', 'policy' or 'reference'"),
        ({"label": "1"}, "key 'label': input should be a valid number"),
        ({"label": None}, "key 'label': input should be a valid number"),
        ({"round": 1.5}, "key 'round': input should be a valid integer"),
        ({"round": True}, "key 'round': input should be a valid integer"),
        ({"chosen_ids": "12"}, "key 'chosen_ids': input should be a valid list"),
        ({"label": 1.5}, "key 'label': input should be less than or equal to 1"),
        ({"chosen_ids": [1, "2"]}, "key 'chosen_ids.1': input should be a valid integer"),
        ({"source": 3}, "key 'source': input should be a valid string"),
        ({"other_ids": [[1], ["x"]]}, "key 'other_ids.1.0': input should be a valid integer"),
        ({"prompt": 3}, f"key 'prompt': {TEXT_OR_MESSAGES}"),
        ({"prompt": {"role": "user"}}, f"key 'prompt': {TEXT_OR_MESSAGES}"),
        ({"chosen": None}, f"key 'chosen': {TEXT_OR_MESSAGES}"),
        ({"rejected": ["b"]}, f"key 'rejected': {TEXT_OR_MESSAGES}"),
    ],
)
def test_a_value_of_another_type_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedRecordError) as caught:
        Preference.from_dict({**PAIR, **change})
    assert str(caught.value) == message


@pytest.mark.parametrize("label", [-0.1, 1.5, 7])
def test_a_label_that_is_no_probability_is_refused(label: float) -> None:
    with pytest.raises(MalformedRecordError, match="label"):
        Preference.from_dict({**PAIR, "label": label})


def test_records_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Preference(**PAIR).label = 0.0  # type: ignore[misc]


def test_what_a_prompts_template_got_besides_its_messages_is_found_in_rows_and_records() -> None:
    tools, kwargs = [{"type": "function", "function": {"name": "look"}}], {"enable_thinking": False}
    row = {"prompt": CHAT, "chosen": REPLY, "rejected": REPLY, "tools": tools, "chat_template_kwargs": kwargs}
    assert TemplateArguments.of_row(row) == TemplateArguments(tools, kwargs)
    assert Preference.from_dict(row).template_arguments == TemplateArguments(tools, kwargs)
    assert TemplateArguments.of_row(PAIR) == Preference.from_dict(PAIR).template_arguments == TemplateArguments()
