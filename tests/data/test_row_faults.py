from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.data.faults import FaultLog, RowError, describe, missing_key, probability_of, shorten, text_of
from align_cli.errors import MAX_ROWS, DataError, Fault


def test_control_characters_and_length_never_reach_the_terminal() -> None:
    assert shorten("a\x1b[31m\n\u202eb") == "'a\\x1b[31m\\n\\u202eb'"
    assert shorten("x" * 81) == "'" + "x" * 77 + "...'"


@given(st.text(st.characters()))
def test_what_is_shown_is_one_printable_line(text: str) -> None:
    assert shorten(text).isprintable()
    assert describe(text).isprintable()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ([1, [2]], "a list of 2"),
        ({}, "an empty object"),
        ({"a": 1, "b": 2}, "an object with 'a', 'b'"),
        (dict.fromkeys("abcdefghij"), "an object with 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 2 more"),
        (b"", "a bytes"),
    ],
)
def test_values_are_described_in_few_words(value: object, words: str) -> None:
    assert describe(value) == words


def test_a_missing_key_proposes_the_key_that_looks_like_it() -> None:
    assert missing_key({"promt": "", "chosen": ""}, "prompt").hint == "rename 'promt' to 'prompt'"
    assert missing_key({"system_prompt": ""}, "prompt").hint == ""
    assert missing_key({"chosen": ""}, "chosen_messages", known=["chosen"]).hint == ""
    assert missing_key({"prompt": None}, "prompt").what == "'prompt' is null; it must hold a value"


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(RowError, match=r"holds \\ud83d, half of a surrogate pair, at character 2"):
        text_of("ab\ud83d", "prompt")


@pytest.mark.parametrize("value", [0, 1, 0.25])
def test_probabilities_become_floats(value: float) -> None:
    assert probability_of(value, "label") == value
    assert isinstance(probability_of(value, "label"), float)


@pytest.mark.parametrize("value", [True, "0.5", None, -0.1, 1.1, float("nan"), float("inf"), 10**400])
def test_what_is_no_probability_is_refused(value: object) -> None:
    with pytest.raises(RowError, match="'label' is"):
        probability_of(value, "label")


def refused(faults: list[Fault]) -> DataError:
    log = FaultLog("rows.jsonl")
    log.raise_if_any()
    for fault in faults:
        log.add(fault)
    with pytest.raises(DataError) as caught:
        log.raise_if_any()
    return caught.value


def test_sixty_equal_faults_are_one_with_all_their_rows() -> None:
    error = refused([Fault("bad", f"rows.jsonl:{number}", "mend it") for number in [*range(1, 60), 70]])
    assert error.faults == (Fault("bad; and so in 59 more rows: 2-59, 70", "rows.jsonl:1", "mend it"),)
    assert error.not_shown == ""


def test_of_many_kinds_twenty_are_shown_and_the_rows_of_the_others_counted() -> None:
    error = refused([Fault(f"bad {number % 23}", f"rows.json[{number}]") for number in range(46)])
    assert [fault.what for fault in error.faults] == [
        f"bad {kind}; and so in 1 more row: {kind + 23}" for kind in range(20)
    ]
    assert error.not_shown == "6 more rows of rows.jsonl that cannot be used"


def test_of_very_many_it_is_said_that_the_rest_was_not_read() -> None:
    error = refused([Fault("bad", f"rows.jsonl:{number}") for number in range(1, MAX_ROWS + 1)])
    assert error.not_shown == "what follows in rows.jsonl, which was not read"
