"""What an unquoted word of a recipe means: YAML 1.2's core schema.

PyYAML follows YAML 1.1, where `3e-4` is text, `on` and `no` are booleans and `1:30` is a number; none of which people
who write `learning_rate: 3e-4` or `on: policy` mean. Called by `reader` for each scalar, and for the remedy where a
value is of the wrong type.
"""

from __future__ import annotations

import math
import re
import unicodedata

Scalar = str | int | float | bool | None

_YES, _NO = frozenset({"yes", "y", "on", "true"}), frozenset({"no", "n", "off", "false"})
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LONGEST_NUMBER = 400
_TAG_PREFIX = "tag:yaml.org,2002:"
_TAG_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (float,),
}


def read_scalar(text: str, *, quoted: bool, tag: str | None) -> Scalar:
    """The value of a scalar.

    Args:
        text: the scalar without its quotes.
        quoted: whether it was quoted or a block, and so is text.
        tag: its explicit tag, if any.

    Raises:
        ValueError: with the reason, if the tag is not one of YAML's own or contradicts the text, or a number does not
            fit.
    """
    if tag is None:
        return text if quoted else _untagged(text)
    name = tag.removeprefix(_TAG_PREFIX)
    if tag == "!" or (name == "str" and name != tag):
        return text
    if name == tag or name not in _TAG_TYPES:
        raise ValueError("has a tag that is refused")
    value = _untagged(text)
    if name == "float" and type(value) is int:
        return float(value)
    if type(value) not in _TAG_TYPES[name]:
        raise ValueError(f"is not the {name} that its tag says")
    return value


def read_number(text: str) -> int | float | None:
    """The number that the text spells, or None."""
    return None if len(text) > _LONGEST_NUMBER else _number(text)


def has_control_character(text: str) -> bool:
    """Whether the text holds what no value needs: control characters, or halves of surrogate pairs."""
    return any(unicodedata.category(char) in {"Cc", "Cs"} and char not in "\n\t" for char in text)


def rewritten(text_or_number: Scalar, type_words: str) -> str:
    """How a value of the wrong type would be written as a value of the right one, where that is plain; else empty.

    Args:
        text_or_number: the value that was found.
        type_words: what it must be, as `keys.type_words` says it.
    """
    value = text_or_number
    if "number" in type_words and isinstance(value, str):
        number = read_number(value.strip().replace("_", "").replace(",", "."))
        if number is not None and ("whole" not in type_words or isinstance(number, int)):
            return str(number)
    if "whole" in type_words and isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return str(int(value))
    if "true or false" in type_words and isinstance(value, str) and value.lower() in _YES | _NO:
        return "true" if value.lower() in _YES else "false"
    if type_words == "text" and isinstance(value, int | float):
        return f"'{str(value).lower()}' in quotes"
    return ""


def _untagged(text: str) -> Scalar:
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    number = read_number(text)
    if isinstance(number, int) and abs(number) >= 2**63:
        raise ValueError("is a whole number of more than 64 bits")
    if isinstance(number, float) and math.isnan(number):
        raise ValueError("is no number that a recipe can hold")
    return text if number is None else number


def _number(text: str) -> int | float | None:
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text, 8)
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    return None
