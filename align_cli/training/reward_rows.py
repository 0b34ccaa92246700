"""Pairs in a reward model's tokens, as its trainer takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from align_cli.models.reward_models import Encoded, RewardReader


class RewardRow(NamedTuple):
    """A pair in tokens.

    Args:
        chosen: the prompt with the better response.
        rejected: with the other one.
        label: the probability that it is better.
        margin: by how much it is to be better.
    """

    chosen: Encoded
    rejected: Encoded
    label: float = 1.0
    margin: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Of the longer side."""
        return max(len(side.inputs["input_ids"]) for side in (self.chosen, self.rejected))


class RewardCollator:
    """Makes a batch of rows: the chosen sides, then the rejected ones, as TRL's own does.

    TRL's takes token ids alone; encoders read the types of tokens too. `margin` is TRL's; `probability` is ours.

    Args:
        reader: pads.
        rows: all that there will be; without any margin, or any soft label, batches have none.
    """

    def __init__(self, reader: RewardReader, rows: Sequence[RewardRow]) -> None:
        self._reader = reader
        self._has_margins = any(row.margin for row in rows)
        self._has_labels = any(row.label != 1 for row in rows)

    def __call__(self, rows: Sequence[RewardRow]) -> Mapping[str, Any]:
        batch = dict(self._reader.pad([*(row.chosen for row in rows), *(row.rejected for row in rows)]))
        if self._has_margins:
            batch["margin"] = torch.tensor([row.margin for row in rows])
        if self._has_labels:
            batch["probability"] = torch.tensor([row.label for row in rows])
        return batch
