"""What becomes of each row of a key in the policy's eyes: kept as it is, kept and cut, or left out. One byte a row.

To find it out, every row is rendered and measured, before anything is sampled or trained. What was found of the rows of
a large file is remembered, where all that it depends on is known to the letter: the rows, who reads them, the limits
and the rules. Rows with faults have no fates: they are looked for again at every start.
"""

from __future__ import annotations

import base64
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from align_cli.artifacts import remembered
from align_cli.data.lazy import Lazy
from align_cli.data.rows import Rows
from align_cli.models.identity import identity_of
from align_cli.models.text import PolicyText
from align_cli.stages.lengths import Limits, ReadRow, read_row
from align_cli.stages.readable import rows_within

LEFT_OUT, WHOLE, CUT = range(3)

TOKENS_IN_MEMORY = 1 << 18
"""Rows in tokens are kept in memory up to so many tokens together: of a small data set each row is read once."""


class Fates(NamedTuple):
    """What becomes of rows.

    Args:
        of_rows: LEFT_OUT, WHOLE or CUT of each.
        num_tokens: of each that is kept; 0 of others.
        counts: how many were left out and cut, and why.
    """

    of_rows: bytes
    num_tokens: array[int]
    counts: dict[str, int]

    @classmethod
    def recalled(cls, key: str) -> Self | None:
        """What was remembered under a key; None where nothing was."""
        found = remembered.recall(key)
        if found is None:
            return None
        num_tokens = array("I", zlib.decompress(base64.b85decode(found["num_tokens"])))
        return cls(zlib.decompress(base64.b85decode(found["of_rows"])), num_tokens, found["counts"])

    def remember(self, key: str) -> None:
        """Remember them under a key."""
        packed = {"of_rows": self.of_rows, "num_tokens": self.num_tokens.tobytes()}
        texts = {name: base64.b85encode(zlib.compress(value, 1)).decode() for name, value in packed.items()}
        remembered.remember(key, {**texts, "counts": self.counts})


class Places(AbstractSet[int]):
    """The numbers of the rows that are left out, as a set."""

    def __init__(self, fates: bytes) -> None:
        self._fates = fates

    def __contains__(self, place: object) -> bool:
        return isinstance(place, int) and 0 <= place < len(self._fates) and self._fates[place] == LEFT_OUT

    def __iter__(self) -> Iterator[int]:
        return (place for place, fate in enumerate(self._fates) if fate == LEFT_OUT)

    def __len__(self) -> int:
        return self._fates.count(LEFT_OUT)


class KeptRows(Lazy[ReadRow]):
    """The rows of a key that are kept, in the policy's tokens: each is read when it is asked for.

    Args:
        rows: all rows.
        read: makes tokens of one.

    Attributes:
        fates: what becomes of each of all rows.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], ReadRow]) -> None:
        self.fates = Fates(b"", array("I"), {})
        self.all_rows, self._read = rows, read
        self._numbers = array("I")
        self._at_hand: dict[int, ReadRow] = {}
        self._num_tokens = 0

    def find_out(self, key: str | None, found: Iterable[tuple[int, ReadRow]], counts: Counter[str]) -> None:
        """Find out, or remember, what becomes of all rows.

        Args:
            key: under which it is remembered; None where it is not.
            found: goes through the rows, and gives those that are kept with their numbers.
            counts: what `found` counts in; afterwards as if it had, also where that was remembered.
        """
        fates = None if key is None else Fates.recalled(key)
        if fates is None:
            fates = self._found(found, counts)
            if key is not None:
                fates.remember(key)
        else:
            counts.update(fates.counts)
        self.fates = fates
        self._numbers = array("I", (number for number, fate in enumerate(fates.of_rows) if fate != LEFT_OUT))

    def __len__(self) -> int:
        return len(self._numbers)

    def item(self, index: int) -> ReadRow:
        return self.read(self._numbers[index])

    def number(self, index: int) -> int:
        """The number among all rows of the one that has this number among those that are kept."""
        return self._numbers[index]

    @property
    def left_out(self) -> Places:
        """The numbers of the rows that are not kept."""
        return Places(self.fates.of_rows)

    @property
    def lengths(self) -> Sequence[int]:
        """How many tokens each has, without reading it."""
        return array("I", (self.fates.num_tokens[number] for number in self._numbers))

    def as_they_are_read(self) -> Sequence[Mapping[str, Any]]:
        """All rows, those that are cut as they are then."""
        return _AsRead(self) if CUT in self.fates.of_rows else self.all_rows

    def where(self, is_wanted: Callable[[Mapping[str, Any]], bool]) -> Iterator[ReadRow]:
        """Of those that are kept the ones whose row, as it is then, is wanted; no others are made into tokens."""
        rows = self.as_they_are_read()
        return (self.read(number) for number in self._numbers if is_wanted(rows[number]))

    def read(self, number: int) -> ReadRow:
        """One of all rows, in the policy's tokens."""
        found = self._at_hand.get(number)
        if found is None:
            found = self._read(self.all_rows[number])
            self._put_at_hand(number, found)
        return found

    def _found(self, found: Iterable[tuple[int, ReadRow]], counts: Counter[str]) -> Fates:
        of_rows, num_tokens = bytearray(len(self.all_rows)), array("I", bytes(4 * len(self.all_rows)))
        for number, read in found:
            of_rows[number] = CUT if read.was_cut else WHOLE
            num_tokens[number] = read.num_tokens
            self._put_at_hand(number, read)
        return Fates(bytes(of_rows), num_tokens, dict(counts))

    def _put_at_hand(self, number: int, read: ReadRow) -> None:
        if self._num_tokens < TOKENS_IN_MEMORY:
            self._at_hand[number] = read
            self._num_tokens += read.num_tokens


class _AsRead(Lazy[Mapping[str, Any]]):
    def __init__(self, kept: KeptRows) -> None:
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept.all_rows)

    def item(self, index: int) -> Mapping[str, Any]:
        is_cut = self._kept.fates.of_rows[index] == CUT
        return self._kept.read(index).row if is_cut else self._kept.all_rows[index]


def kept_rows(
    key: str,
    rows: Sequence[Mapping[str, Any]],
    noun: str,
    answers: Sequence[str],
    policy: PolicyText,
    limits: Limits,
    counts: Counter[str],
    *,
    rules: Mapping[str, Any] = MappingProxyType({}),
    is_wanted: Callable[[int, ReadRow], bool] = lambda index, read: True,
    may_lack_prompt: bool = False,
    identify: Callable[[PolicyText], str | None] = identity_of,
) -> KeptRows:
    """The rows of a key that are no longer than they may be, in the policy's tokens.

    Args as of `rows_within`, and:
        rules: stand for `is_wanted`: what it depends on besides the row.
        identify: what stands for the policy; asked only where what is found can be remembered.

    Raises:
        DataError: for all that the policy cannot read or that are too long; or if all were left out for their length.
    """

    def read(row: Mapping[str, Any]) -> ReadRow:
        return read_row(row, answers, policy, limits, may_lack_prompt=may_lack_prompt)

    kept = KeptRows(rows, read)
    identity = rows.identity if isinstance(rows, Rows) else None
    reader = None if identity is None else identify(policy)
    depends = None if reader is None else [identity, reader, answers, limits, dict(rules), may_lack_prompt]
    within = rows_within(
        key, rows, noun, answers, policy, limits, counts, is_wanted=is_wanted, may_lack_prompt=may_lack_prompt
    )
    kept.find_out(None if depends is None else remembered.key_of("fates", *depends), within, counts)
    return kept
