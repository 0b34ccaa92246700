"""Labelers of kind `function`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from align_cli.recipe.sections.labelers.base import LabelerSection


class FunctionLabelerSection(LabelerSection):
    """A labeler of kind `function`: Python that scores completions, called as TRL calls reward functions on text."""

    kind: Literal["function"] = Field(description="what gives the labels")
    function: str = Field(description="`package.module:name` or `path/to/file.py:name`")
    arguments: dict[str, Any] | None = Field(
        None, description="when given, `name(**arguments)` is called once and must return the scoring function"
    )
    batch_size: int = Field(64, ge=1, description="completions a call")

    def code(self) -> dict[str, str]:
        return {"function": self.function}
