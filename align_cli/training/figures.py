"""The figures of a step: means over its pairs, whatever its micro-batches and processes."""

from __future__ import annotations

from collections import defaultdict

import torch


class Figures:
    """What the means over a whole step are made of, whatever its micro-batches and processes."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, values: torch.Tensor) -> None:
        """Take in more values of a figure."""
        total = self._sums[name]
        total[0] += values.detach().sum().item()
        total[1] += values.numel()

    def take(self) -> dict[str, float]:
        """The means by name, in alphabetical order; what was collected is forgotten."""
        return {name: total / count for name, (total, count) in sorted(self.take_sums().items()) if count}

    def take_sums(self) -> dict[str, tuple[float, float]]:
        """Sums and counts by name; what was collected is forgotten."""
        sums = {name: (total, count) for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return sums
