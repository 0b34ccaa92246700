"""Measures of items by what a policy and its reference say of them, by name: other processes can take them too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align_cli.models.load import Policy


class OneMeasure:
    """A measure that this process takes.

    Args:
        function: `package.module:name` of it; called with policy, reference, items and the rest.
        policy: the one model.
        reference: the other.
        rest: what else it takes.
    """

    ways = 1

    def __init__(self, function: str, policy: Policy, reference: Policy, *rest: Any) -> None:
        self._function: Callable[..., list[float]] = resolve_name(function)
        self._models, self._rest = (policy, reference), rest

    def __call__(self, items: Sequence[Any], batch_size: int) -> list[float]:
        """A number for each item; those of a batch are measured together."""
        batches = (items[start : start + batch_size] for start in range(0, len(items), batch_size))
        return [value for batch in batches for value in self.of(batch)]

    def of(self, batch: Sequence[Any]) -> list[float]:
        """A number for each item of a batch."""
        return self._function(*self._models, batch, *self._rest)
