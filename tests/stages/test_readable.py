"""Rows that the policy cannot read: one fault a kind, with the number of its rows and their first places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from align_cli.data.rows import Row
from align_cli.errors import MAX_KINDS, DataError, Fault
from align_cli.models.load import Policy
from align_cli.stages.lengths import COMPLETION_KEY, CONTEXT, PROMPT_KEY, Limits
from align_cli.stages.readable import MAX_PLACES, RowFaults, rows_within

ROWS = [Row({"prompt": "p"}, f"rows.jsonl:{number}") for number in range(1, 31)]
OR_ELSE = "or set data.too_long to drop or cut"
LONGER = f"take a model with a longer context, {OR_ELSE}"
LIMITS = Limits(context_length=10)


def gathered(fill: Callable[[RowFaults], Any], *, rows: Any = ROWS, limits: Limits = LIMITS) -> list[Fault]:
    faults = RowFaults("data.prompts", rows, "prompts", limits)
    fill(faults)
    with pytest.raises(DataError) as caught:
        faults.raise_if_any()
    return list(caught.value.faults)


def too_long(*lengths: int, limit: str = CONTEXT) -> Callable[[RowFaults], Any]:
    return lambda faults: [faults.add_too_long(index, {limit: num}) for index, num in enumerate(lengths)]


def test_without_faults_nothing_is_raised() -> None:
    RowFaults("data.prompts", ROWS, "prompts", LIMITS).raise_if_any()


@pytest.mark.parametrize(
    ("limit", "what", "hint"),
    [
        (CONTEXT, "do not fit into the model's context of 10 tokens with generate.max_new_tokens 4", LONGER),
        (PROMPT_KEY, "have more prompt tokens than data.max_prompt_tokens, 7", f"raise it to 12, {OR_ELSE}"),
        (
            COMPLETION_KEY,
            "have an answer of more tokens than data.max_completion_tokens, 3",
            f"raise it to 12, {OR_ELSE}",
        ),
    ],
)
def test_rows_beyond_each_limit_are_one_fault_with_what_would_let_them_in(limit: str, what: str, hint: str) -> None:
    limits = Limits("refuse", 7, 3, context_length=10, reserved=4)
    (fault,) = gathered(too_long(12, 11, limit=limit), limits=limits)
    places = "rows.jsonl:1 (12 tokens), rows.jsonl:2 (11 tokens)"
    assert fault == Fault(f"2 of 30 prompts {what}: {places}", "data.prompts", hint)


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
    (fault,) = gathered(too_long(*lengths), limits=LIMITS._replace(reserved=4))
    assert fault.hint == lower + LONGER


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
            faults.add_too_long(5, {CONTEXT: 11})

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


def within(rows: Any, policy: Policy, limits: Limits, answers: Any = (), **how: Any) -> Any:
    """The numbers of the rows that are left, and the counts."""
    counts: Counter[str] = Counter()
    kept = [index for index, _ in rows_within("data.prompts", rows, "rows", answers, policy, limits, counts, **how)]
    return kept, dict(counts)


def test_what_cannot_be_read_is_told_behind_the_last_row(tiny_policy: Policy) -> None:
    chat = {"prompt": [{"role": "user", "content": "a"}]}
    with pytest.raises(DataError, match=r"2 of 4 rows cannot be read: this is a chat.*: row 1, row 3"):
        within([{"prompt": "the food"}, chat, {"prompt": "the staff"}, chat], tiny_policy, Limits("drop", 1))


def test_an_empty_prompt_is_one_only_where_it_may_be(tiny_policy: Policy) -> None:
    rows = [{"prompt": "", "completion": "the staff"}]
    assert within(rows, tiny_policy, Limits(), ("completion",), may_lack_prompt=True) == ([0], {})
    with pytest.raises(DataError, match="the prompt has no tokens"):
        within(rows, tiny_policy, Limits(), ("completion",))


SHORT, LONG = {"prompt": "the food"}, {"prompt": "the food was good and the staff was kind"}


def test_rows_that_are_too_long_are_refused_left_out_or_cut_and_counted(tiny_policy: Policy) -> None:
    rows = [SHORT, LONG, SHORT, LONG]
    with pytest.raises(DataError, match=r"2 of 4 rows have more prompt tokens than data\.max_prompt_tokens, 4: row 1 "):
        within(rows, tiny_policy, Limits("refuse", 4))
    assert within(rows, tiny_policy, Limits("drop", 4)) == ([0, 2], {"too_long_dropped": 2})
    assert within(rows, tiny_policy, Limits("cut", 4)) == ([0, 1, 2, 3], {"too_long_cut": 2})
    for how in ("refuse", "drop", "cut"):
        assert within(rows, tiny_policy, Limits(how, 99)) == ([0, 1, 2, 3], {})  # type: ignore[arg-type]


def test_a_row_that_is_not_wanted_may_be_of_any_length(tiny_policy: Policy) -> None:
    assert within([SHORT, LONG], tiny_policy, Limits("refuse", 4), is_wanted=lambda index, _: index == 0) == ([0], {})


def test_rows_that_are_all_too_long_are_told_with_their_number(tiny_policy: Policy) -> None:
    with pytest.raises(DataError, match=r"all 2 rows are left out: they are too long \(data\.too_long: drop\)"):
        within([LONG, LONG], tiny_policy, Limits("drop", 4))
    assert within([], tiny_policy, Limits("drop", 4)) == ([], {})
