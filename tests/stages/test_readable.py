"""Rows that the policy cannot read: one fault a kind, with the number of its rows and their first places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from align_cli.artifacts.records import Preference
from align_cli.data.rows import Row
from align_cli.errors import MAX_KINDS, DataError, Fault
from align_cli.models.load import Policy
from align_cli.stages.readable import MAX_PLACES, RowFaults, num_tokens, tokenised_demonstrations, tokenised_prompts

ROWS = [Row({"prompt": "p"}, f"rows.jsonl:{number}") for number in range(1, 31)]
REMEDY = "shorten them or leave them out, or take a model with a longer context"


def gathered(
    fill: Callable[[RowFaults], Any], *, rows: Any = ROWS, context_length: int | None = 10, reserved: int = 0
) -> list[Fault]:
    faults = RowFaults("data.prompts", rows, "prompts")
    fill(faults)
    with pytest.raises(DataError) as caught:
        faults.raise_if_any(context_length, reserved)
    return list(caught.value.faults)


def measured(num: int, context_length: int | None = 10, reserved: int = 0) -> Callable[[RowFaults], None]:
    return lambda faults: faults.measure(0, num, context_length, reserved)


def test_without_faults_nothing_is_raised() -> None:
    faults = RowFaults("data.prompts", ROWS, "prompts")
    for num, context_length, reserved in ((10, 10, 0), (6, 10, 4), (10**9, None, 0)):
        faults.measure(0, num, context_length, reserved)
    faults.raise_if_any(10)


def test_a_row_is_too_long_together_with_what_it_must_leave_room_for() -> None:
    what = "1 of 30 prompts do not fit into the model's context of 10 tokens"
    assert gathered(measured(11)) == [Fault(f"{what}: rows.jsonl:1 (11 tokens)", "data.prompts", REMEDY)]
    (fault,) = gathered(measured(7, reserved=4), reserved=4)
    assert fault.what == f"{what} with generate.max_new_tokens 4: rows.jsonl:1 (7 tokens)"


@pytest.mark.parametrize(
    ("lengths", "lower"),
    [
        ((9,), "set generate.max_new_tokens to at most 1, or "),
        ((7, 8), "set generate.max_new_tokens to at most 2, or "),
        ((8, 7), "set generate.max_new_tokens to at most 2, or "),
        ((10,), ""),
        ((7, 11), ""),
    ],
)
def test_fewer_new_tokens_are_offered_where_they_would_do_for_all(lengths: tuple[int, ...], lower: str) -> None:
    (fault,) = gathered(lambda faults: [faults.measure(0, num, 10, 4) for num in lengths], reserved=4)
    assert fault.hint == lower + REMEDY


def test_rows_that_are_wrong_in_the_same_way_are_one_fault_with_their_first_places() -> None:
    def fault_of(count: int) -> Fault:
        error = DataError("the template rejects it", hint="mend it")
        (fault,) = gathered(lambda faults: [faults.add(index, error) for index in range(count)])
        return fault

    places = [f"rows.jsonl:{number}" for number in range(1, MAX_PLACES + 1)]
    what = "of 30 prompts cannot be read: the template rejects it: "
    assert fault_of(MAX_PLACES) == Fault(f"10 {what}{', '.join(places)}", "data.prompts", "mend it")
    assert fault_of(MAX_PLACES + 2).what == f"12 {what}{', '.join(places)} and 2 more"


def test_what_is_wrong_in_another_way_is_another_fault_and_too_many_kinds_are_counted() -> None:
    def fault(kind: int) -> str:  # numbers alone would make no other kind
        return "fault " + "I" * (kind + 1)

    def fill(kinds: int) -> Callable[[RowFaults], Any]:
        def add(faults: RowFaults) -> None:
            for index in range(kinds):
                faults.add(index, DataError(fault(index)))
            faults.add(0, DataError(fault(0), hint="another remedy" if kinds == 1 else ""))
            for index in (20, 21):
                faults.add(index, DataError(fault(kinds - 1)))
            faults.measure(5, 11, 10)

        return add

    found = gathered(fill(1))
    assert [fault.what.split(" prompts")[0] for fault in found] == ["3 of 30", "1 of 30", "1 of 30"]
    assert "do not fit" in found[-1].what
    found = gathered(fill(MAX_KINDS))
    assert len(found) == MAX_KINDS + 1 and "do not fit" in found[-1].what
    found = gathered(fill(MAX_KINDS + 1))
    assert found[-1] == Fault("and 3 more prompts", "data.prompts")
    assert len(found) == MAX_KINDS + 2


def test_rows_of_nobodys_file_are_told_by_their_number() -> None:
    (fault,) = gathered(lambda faults: faults.add(1, DataError("wrong")), rows=[{"prompt": "a"}, {"prompt": "b"}])
    assert fault.what == "1 of 2 prompts cannot be read: wrong: row 1"


def test_a_pairs_length_is_its_prompt_and_its_longer_response() -> None:
    assert num_tokens(Preference("p", "c", "r")) == 0
    for chosen, rejected in (([1, 2], [3]), ([1], [2, 3])):
        assert (
            num_tokens(Preference("p", "c", "r", prompt_ids=[7, 8, 9], chosen_ids=chosen, rejected_ids=rejected)) == 5
        )


def test_prompts_and_demonstrations_become_ids_in_their_order(tiny_policy: Policy) -> None:
    ids = {text: tiny_policy.tokenizer(text)["input_ids"] for text in ("the food", "the staff", " was good .")}
    stop, context = tiny_policy.tokenizer.eos_token_id, tiny_policy.context_length or 0
    rows = [{"prompt": "the food", "completion": " was good ."}, {"prompt": "", "completion": "the staff"}]
    assert tokenised_prompts(rows[:1], "data.prompts", tiny_policy, context - len(ids["the food"])) == [ids["the food"]]
    assert tokenised_demonstrations(rows, "data.demonstrations", tiny_policy) == [
        (ids["the food"], [*ids[" was good ."], stop]),
        ([], [*ids["the staff"], stop]),
    ]
    with pytest.raises(DataError, match=r"^data\.prompts: 1 of 1 prompts do not fit"):
        tokenised_prompts(rows[:1], "data.prompts", tiny_policy, context - len(ids["the food"]) + 1)
    fitting = {"prompt": "the food", "completion": " good" * (context - len(ids["the food"]) - 1)}
    assert len(tokenised_demonstrations([fitting], "data.demonstrations", tiny_policy)) == 1
    chat = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    with pytest.raises(DataError) as caught:
        tokenised_demonstrations([rows[0], chat, rows[1], chat], "data.demonstrations", tiny_policy)
    assert str(caught.value).startswith("data.demonstrations: 2 of 4 demonstrations cannot be read: this is a chat")
    assert caught.value.faults[0].what.endswith(": row 1, row 3")
    with pytest.raises(DataError, match=r"^data\.prompts: 1 of 2 prompts cannot be read: this is a chat"):
        tokenised_prompts([rows[0], chat], "data.prompts", tiny_policy, 1)
    long = {**fitting, "completion": fitting["completion"] + " good"}
    with pytest.raises(DataError, match=r"^data\.demonstrations: 1 of 2 demonstrations do not fit .*: row 1 \(129 "):
        tokenised_demonstrations([fitting, long], "data.demonstrations", tiny_policy)
