"""JSON as artifacts have it: finite numbers of 64 bits, nested so far that it can be written again, text as it is."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DEPTH = 100
"""What nothing of ours comes near; more is refused before it fills the stack."""

SURROGATES = re.compile("[\ud800-\udfff]")


def to_json(value: Any) -> str:
    """One line of JSON: no NaN, text as it is; half a surrogate pair, which no file can hold, is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return json.dumps(value) if SURROGATES.search(text) else text


def from_json(text: str) -> Any:
    """A JSON value whose numbers are finite and fit 64 bits, and that is not nested too deeply to be written again.

    Raises:
        ValueError: for anything else.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return value


def shortened(text: str, longest: int = 40) -> str:
    """A text, or its beginning."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def printable(text: str) -> str:
    """A message that names keys as the file spells them, safe for a terminal and not endless."""
    characters = (char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return shortened("".join(characters), 200)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = (inner for inner in level if isinstance(inner, dict | list))
        level = [item for inner in nested for item in (inner.values() if isinstance(inner, dict) else inner)]
    return bool(level)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shortened(text)} is beyond all numbers")
    return number


def _whole(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else 2**63
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{shortened(digits)} is a whole number of more than 64 bits")
    return number
