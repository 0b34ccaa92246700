"""JSON without its traps: NaN and Infinity, keys given twice, numbers without end, nesting without end.

Python's own parser lets the first two pass and raises errors of three families for the rest.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from align_cli.data.faults import RowError, shorten

WHITESPACE = " \t\r\n"


class JsonSyntaxError(Exception):
    """Text that is not JSON from some character on, so that what follows cannot be read either."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position


class Decoded(NamedTuple):
    """A JSON value, where it ends in the text, and what is wrong within it (None where nothing is)."""

    value: Any
    end: int
    problem: RowError | None


def decode_at(text: str, start: int) -> Decoded:
    """The JSON value that begins at or after `start`.

    Raises:
        JsonSyntaxError: if no value begins there, or it is broken or nested too deeply.
    """
    problems: list[RowError] = []

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            problems.append(RowError(f"the key {shorten(twice)} is given twice", "keep one of the two"))
        return fields

    def no_constant(name: str) -> None:
        problems.append(RowError(f"{name} is no JSON number", "leave the key out, or write a finite number"))

    def short_integer(digits: str) -> int:
        try:
            return int(digits)
        except ValueError:
            problems.append(RowError(f"a number has {len(digits)} digits", "shorten it, or leave the key out"))
            return 0

    decoder = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=no_constant, parse_int=short_integer)
    begin = skip_whitespace(text, start)
    try:
        value, end = decoder.raw_decode(text, begin)
    except json.JSONDecodeError as error:
        raise JsonSyntaxError(error.msg, error.pos) from None
    except RecursionError:
        raise JsonSyntaxError("nested too deeply", begin) from None
    return Decoded(value, end, problems[0] if problems else None)


def skip_whitespace(text: str, start: int) -> int:
    """The position of the first character at or after `start` that is not JSON white space."""
    while start < len(text) and text[start] in WHITESPACE:
        start += 1
    return start
