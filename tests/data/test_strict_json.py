from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_cli.data.strict_json import JsonSyntaxError, decode_at

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(json_values)
def test_what_json_writes_is_read_back(value: object) -> None:
    text = json.dumps(value)
    assert decode_at("  " + text + " rest", 0) == (value, 2 + len(text), None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": [NaN]}', "NaN is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' is given twice"),
        ("[" + "9" * 5000 + "]", "a number has 5000 digits"),
    ],
)
def test_traps_are_told_and_reading_can_go_on_behind_them(text: str, problem: str) -> None:
    decoded = decode_at(text, 0)
    assert decoded.end == len(text)
    assert decoded.problem is not None and decoded.problem.what == problem


@pytest.mark.parametrize("text", ["", "  ", "{", '{"a" 1}', "nul", "[" * 100_000])
def test_broken_text_is_a_syntax_error(text: str) -> None:
    with pytest.raises(JsonSyntaxError):
        decode_at(text, 0)
