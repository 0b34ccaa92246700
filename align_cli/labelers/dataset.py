"""The labeler `dataset`: pairs keep the label that they came with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from align_cli.artifacts.records import Preference, TemplateArguments


def label_pairs(rows: Iterable[Mapping[str, Any]], labeler: str) -> list[Preference]:
    """Offline pairs as preferences.

    Args:
        rows: `prompt`, `chosen`, `rejected`, and where the data has it `label`, the probability in [0, 1] that `chosen`
            is the better one; likewise `tools` and `chat_template_kwargs`.
        labeler: the labeler's name in the recipe.
    """
    return [label_pair(row, index, labeler) for index, row in enumerate(rows)]


def label_pair(row: Mapping[str, Any], index: int, labeler: str) -> Preference:
    """One offline pair as a preference; `index` is its number among all, the rest as of `label_pairs`."""
    return Preference(
        prompt=row["prompt"],
        chosen=row["chosen"],
        rejected=row["rejected"],
        label=float(row.get("label", 1.0)),
        source="offline",
        labeler=labeler,
        prompt_index=index,
        **TemplateArguments.of_row(row)._asdict(),
    )
