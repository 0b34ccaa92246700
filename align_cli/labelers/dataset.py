"""The labeler `dataset`: pairs keep the label that they came with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align_cli.artifacts.records import Preference, TemplateArguments


def label_pair(row: Mapping[str, Any], index: int, labeler: str) -> Preference:
    """An offline pair as a preference.

    Args:
        row: `prompt`, `chosen`, `rejected`, and where the data has it `label`, the probability in [0, 1] that `chosen`
            is the better one; likewise `tools` and `chat_template_kwargs`.
        index: its number among all.
        labeler: the labeler's name in the recipe.
    """
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
