"""Labelers of kind `function`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from align_cli.recipe.checking.files import is_path
from align_cli.recipe.sections.labelers.base import LabelerSection

OWN_REWARDS = "align_cli.rewards"
FILE_ARGUMENTS = ("gold", "tests")
"""Of these rewards: what names a file, a folder or a Hub id."""


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

    def files(self) -> dict[str, str]:
        """Of the rewards that come with align, also what they are made of; nobody knows what those of others read."""
        is_own = self.function.startswith(f"{OWN_REWARDS}:")
        named = {name: value for name, value in (self.arguments or {}).items() if is_own and name in FILE_ARGUMENTS}
        paths = {name: value for name, value in named.items() if isinstance(value, str) and is_path(value)}
        return {**super().files(), **{f"arguments.{name}": path for name, path in paths.items()}}
