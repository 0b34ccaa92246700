"""JSON as artifacts have it: what is written as it is, what is refused, and how messages show it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from align_cli.artifacts.json_text import from_json, printable, shortened, to_json


@pytest.mark.parametrize("value", [{"text": "naïve 漢字 😀", "number": 0.1}, ["a", 1, None, True]])
def test_one_line_with_text_as_it_is(value: Any) -> None:
    assert to_json(value) == json.dumps(value, ensure_ascii=False)
    assert from_json(to_json(value)) == value


def test_only_half_a_surrogate_pair_is_escaped_and_what_stands_beside_it() -> None:
    assert to_json("\ud83d") == '"\\ud83d"'
    assert to_json(["\ud83d", "naïve"]) == '["\\ud83d", "na\\u00efve"]'
    assert to_json("😀") == '"😀"'


@pytest.mark.parametrize("value", [float("nan"), ["\ud83d", float("inf")]])
def test_what_is_no_number_in_json_is_not_written(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(value)


def nested(depth: int, kinds: str, inner: str = "1") -> str:
    """That many containers around a value: lists for `[`, objects for `{`, in turn."""
    opened = [kinds[level % len(kinds)] for level in range(depth)]
    heads = "".join("[" if kind == "[" else '{"a": ' for kind in opened)
    return heads + inner + "".join("]" if kind == "[" else "}" for kind in reversed(opened))


@pytest.mark.parametrize("kinds", ["[", "{", "[{", "[[{"])
def test_a_hundred_containers_around_a_value_are_read_and_no_more(kinds: str) -> None:
    assert json.dumps(from_json(nested(100, kinds))) == nested(100, kinds)
    for depth in (101, 102, 200, 100_000):
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            from_json(nested(depth, kinds))


def test_brackets_beside_one_another_and_in_texts_are_no_depth() -> None:
    assert from_json(json.dumps(["[{" * 200])) == ["[{" * 200]
    assert from_json(json.dumps([[{}]] * 200)) == [[{}]] * 200
    assert from_json(f"[{nested(99, '[')}, {nested(99, '[')}]") == [from_json(nested(99, "["))] * 2
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        from_json(f"[{nested(3, '[')}, {nested(100, '[')}]")


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63)])
def test_whole_numbers_of_64_bits_are_read(number: int) -> None:
    assert from_json(f"{number}") == number


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**20, -(10**20), 10**400])
def test_larger_ones_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match=r"is a whole number of more than 64 bits$"):
        from_json(f"{number}")


@pytest.mark.parametrize("text", ["1e999", "-1e999"])
def test_a_number_beyond_all_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text} is beyond all numbers$"):
        from_json(text)


def test_a_text_in_a_message_is_no_longer_than_forty_characters() -> None:
    assert shortened("x" * 40) == "x" * 40
    assert shortened("x" * 41) == "x" * 37 + "..."


def test_a_message_shows_what_can_be_printed_as_it_is_and_escapes_the_rest() -> None:
    assert printable("naïve 漢字 ‘key’") == "naïve 漢字 ‘key’"
    assert printable("\x1b[2J\n\u2028\ud800") == "\\x1b[2J\\n\\u2028\\ud800"
    assert printable("é" * 201) == "é" * 197 + "..."
