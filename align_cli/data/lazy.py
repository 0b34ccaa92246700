"""Sequences whose items are made when they are asked for: as long as a data set, and no larger than a few of its rows.

The base of what stands for the rows of a source on their way from its reader to a batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, overload

ItemType = TypeVar("ItemType")
MOST_SHOWN = 20


class Lazy(Sequence[ItemType], Generic[ItemType]):
    """A sequence that makes its items, each time anew; equal to any sequence of equal items."""

    @abstractmethod
    def item(self, index: int) -> ItemType:
        """The item of this number, which is from 0 and below the length."""

    @overload
    def __getitem__(self, index: int) -> ItemType: ...

    @overload
    def __getitem__(self, index: slice) -> list[ItemType]: ...

    def __getitem__(self, index: int | slice) -> ItemType | list[ItemType]:
        numbers = range(len(self))[index]
        return self.item(numbers) if isinstance(numbers, int) else list(map(self.item, numbers))

    def __iter__(self) -> Iterator[ItemType]:
        return map(self.item, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(one == its for one, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        more = f" and {len(self) - MOST_SHOWN} more" if len(self) > MOST_SHOWN else ""
        return f"{self[:MOST_SHOWN]!r}{more}"
