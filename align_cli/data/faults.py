"""Faults of rows: raised where they are found, collected per file, shown at once.

A format raises `RowError` without knowing where its row stands; `exchanges.py` adds the place. What a file holds is
data: it is shortened and its control characters are escaped before it enters a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from align_cli.errors import MAX_ROWS, Fault, error_of_rows, nearest

MAX_SHOWN_CHARS = 80
MAX_SHOWN_KEYS = 8
MAX_COMPARED_KEYS = 100
MISSPELLING_RATIO = 0.75


class RowError(Exception):
    """One row that cannot be used, before its place is known."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def at(self, where: str) -> Fault:
        """The same fault with its place."""
        return Fault(self.what, where, self.hint)


class FaultLog:
    """The faults of one source: those of one kind are told once, and 20 kinds at most; after 1000 reading may stop."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    @property
    def is_full(self) -> bool:
        """Whether so much is wrong that reading on tells nothing more."""
        return len(self._faults) >= MAX_ROWS

    def raise_if_any(self) -> None:
        """Raise every fault that was added as one `DataError`."""
        if self._faults:
            raise error_of_rows(self._faults, self._source)


def shorten(text: str) -> str:
    """Text in quotes, with control characters escaped, cut to about 80 characters."""
    if len(text) <= MAX_SHOWN_CHARS:
        return repr(text)
    quoted = repr(text[: MAX_SHOWN_CHARS - 3])
    return quoted[:-1] + "..." + quoted[-1]


def describe(value: Any) -> str:
    """What was found in place of the wanted value, in a few words; never opens a nested value."""
    if isinstance(value, str):
        return shorten(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return shorten(str(value))[1:-1]
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {list_keys(value)}" if value else "an empty object"
    return f"a {type(value).__name__}"


def list_keys(keys: Iterable[Any]) -> str:
    """The keys of a row in quotes; the first eight, and the number of the rest."""
    names = [str(key) for key in keys]
    more = f" and {len(names) - MAX_SHOWN_KEYS} more" if len(names) > MAX_SHOWN_KEYS else ""
    return ", ".join(map(shorten, names[:MAX_SHOWN_KEYS])) + more


def missing_key(row: dict[str, Any], wanted: str, known: Iterable[str] = ()) -> RowError:
    """The error of a row without a key; proposes to rename the nearest key that means nothing else.

    Args:
        row: the row as it was read.
        wanted: the key that is missing.
        known: keys that have a meaning of their own and are never proposed for renaming.
    """
    if not row:
        return RowError("the row is empty", f"it needs the key {wanted!r}")
    close = misspelling_of([wanted], [key for key in row if key not in {wanted, *known}]).get(wanted)
    hint = f"rename {close!r} to {wanted!r}" if close else ""
    if wanted in row:
        return RowError(f"{wanted!r} is null; it must hold a value", hint)
    return RowError(f"there is no key {wanted!r}; found {list_keys(row)}", hint)


def misspelling_of(wanted: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """The wanted keys that some of the given keys are likely to be misspellings of, each with that key.

    Stricter than `nearest`: `system_prompt` is no misspelling of `prompt`, nor `passages` of `messages`.
    """
    present = list(islice(keys, MAX_COMPARED_KEYS))
    pairs = ((name, nearest(name, present)) for name in wanted)
    return {
        name: close for name, close in pairs if close and SequenceMatcher(None, name, close).ratio() > MISSPELLING_RATIO
    }


def text_of(value: Any, name: str) -> str:
    """The value, if it is text that can be stored as UTF-8.

    Raises:
        RowError: if it is no text, or holds half of a surrogate pair (JSON can spell one; no file can hold it).
    """
    if not isinstance(value, str):
        raise RowError(f"{name!r} is {describe(value)}; it must be text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise RowError(
            f"{name!r} holds {half}, half of a surrogate pair, at character {error.start}",
            "write the whole pair, or the character itself",
        ) from None
    return value


def probability_of(value: Any, name: str) -> float:
    """The value as a float, if it is a number in [0, 1].

    Raises:
        RowError: if it is no number (a boolean is none), not finite, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(
            f"{name!r} is {describe(value)}; it must be a number from 0 to 1",
            "it is the probability that 'chosen' is the better response",
        )
    if not 0.0 <= value <= 1.0:
        raise RowError(
            f"{name!r} is {describe(value)}; it must be from 0 to 1",
            "it is the probability that 'chosen' is the better response",
        )
    return float(value)
