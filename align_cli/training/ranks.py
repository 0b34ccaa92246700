"""The processes that train one model together: what they tell each other in a step, and how one's failure is all's.

Every process has a number, its rank. All do the same in the same order, each on its share of a batch; what is of the
whole batch (baselines, counts, gradients, figures) goes through here. Memory that runs out in one of them is told by
its next word to the others, whatever that was to be, so that all of them stop in the same place and can begin again.

One process alone is `ALONE`, which hears itself. Who starts the others, and who ends them, is `launch`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from align_cli.models.memory import out_of_memory_as_memory_error

Value = TypeVar("Value")

BUCKET_ELEMENTS = 2**25
"""Of gradients that are added up at once: 128 MiB of them in float32."""


class _RanOut(NamedTuple):
    """Told instead of a value."""

    what: str


class _ToldMemoryError(MemoryError):
    """Memory ran out somewhere, and every rank knows."""


class Ranks:
    """One of several processes, or the only one.

    Args:
        rank: this one's number, from 0.
        number: how many there are.
    """

    def __init__(self, rank: int = 0, number: int = 1) -> None:
        self.rank, self.number = rank, number

    def heard(self, value: Value) -> list[Value]:
        """What every rank says here, in their order.

        Raises:
            MemoryError: if one says that its memory ran out.
        """
        said = self._exchanged(value)
        ran_out = [(rank, one) for rank, one in enumerate(said) if isinstance(one, _RanOut)]
        if ran_out:
            rank, first = ran_out[0]
            raise _ToldMemoryError(first.what if self.number == 1 else f"{first.what} (rank {rank})")
        return said

    def leaders(self, value: Value) -> Value:
        """What rank 0 says here; the others' own is not looked at."""
        if self.number == 1:
            return value
        said = [value if self.rank == 0 else None]
        dist.broadcast_object_list(said, 0)
        return said[0]  # type: ignore[return-value]

    def gathered(self, *columns_B: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each column with the rows of all ranks, in their order; each may have another number of rows."""
        if self.number == 1:
            return columns_B
        everyone = self.heard([column.detach().cpu() for column in columns_B])
        return tuple(
            torch.cat(parts).to(own.device) for own, parts in zip(columns_B, zip(*everyone, strict=True), strict=True)
        )

    @contextmanager
    def running_out_together(self) -> Iterator[None]:
        """A stretch of work in which memory may run out: it does so for all ranks or for none.

        Who is through does not wait for the others. It hears of them at its next word, which therefore has to come
        before anything that cannot be undone.

        Raises:
            MemoryError: if it did.
        """
        if self.number == 1:
            yield
            return
        ran_out: str | None = None
        is_told = False
        try:
            with out_of_memory_as_memory_error():
                try:
                    yield
                except _ToldMemoryError:
                    is_told = True
                    raise
        except MemoryError as error:
            if is_told:
                raise
            ran_out = str(error)
        if ran_out is not None:
            self.heard(_RanOut(ran_out))

    @torch.no_grad()
    def add_up(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Let the gradients be the sums of all ranks'; where no rank has one, there is none."""
        if self.number == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        have = torch.tensor(self.heard([parameter.grad is not None for parameter in trained])).any(0).tolist()
        gradients: list[torch.Tensor] = []
        for parameter, has_any in zip(trained, have, strict=True):
            if has_any and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            sizes = [gradient.numel() for gradient in bucket]
            for gradient, total in zip(bucket, flat.split(sizes), strict=True):
                gradient.copy_(total.view_as(gradient))

    def _exchanged(self, value: Any) -> list[Any]:
        if self.number == 1:
            return [value]
        said: list[Any] = [None] * self.number
        dist.all_gather_object(said, value)
        return said


ALONE = Ranks()
"""The only process."""


def added(everyone: Iterable[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Sums and counts by name, of all ranks together."""
    totals: dict[str, tuple[float, float]] = {}
    for own in everyone:
        for name, (total, count) in own.items():
            before, number = totals.get(name, (0.0, 0.0))
            totals[name] = (before + total, number + count)
    return totals


def _buckets(gradients: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Gradients of one type and device, together as many as a bucket holds; a larger one alone."""
    bucket: list[torch.Tensor] = []
    size = 0
    for gradient in gradients:
        is_other = bool(bucket) and (gradient.dtype, gradient.device) != (bucket[0].dtype, bucket[0].device)
        if bucket and (is_other or size + gradient.numel() > BUCKET_ELEMENTS):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        yield bucket
