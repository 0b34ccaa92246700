from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.data.faults import FaultLog, RowError, describe, missing_key, probability_of, shorten, text_of
from align_cli.errors import DataError, Fault


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


def test_twenty_faults_are_shown_and_the_rest_counted() -> None:
    log = FaultLog("rows.jsonl")
    log.raise_if_any()
    for number in range(1, 24):
        log.add(Fault("bad", f"rows.jsonl:{number}"))
    with pytest.raises(DataError) as caught:
        log.raise_if_any()
    assert len(caught.value.faults) == 21
    assert str(caught.value).splitlines()[-1] == "rows.jsonl: and 3 more"
