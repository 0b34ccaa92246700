"""Labelers of kind `combination`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from align_cli.recipe.sections.labelers.base import Gives, LabelerSection

Weight = Annotated[float, Field(gt=0)]


class CombinationLabelerSection(LabelerSection):
    """A labeler of kind `combination`: several others, by a weighted sum of scores, a vote, or agreement."""

    kind: Literal["combination"] = Field(description="what gives the labels")
    of: dict[str, Weight] = Field(description="two labelers or more by name, each with its weight, above 0")
    by: Literal["sum", "vote", "agreement"] = Field(
        "sum",
        description="the weighted sum of scores; the weighted share of votes, which `label.labels: soft` keeps; or no "
        "verdict unless all say the same",
    )
    standardize: bool = Field(
        True,
        description="for sums: scores of mean 0 and standard deviation 1, by labeler, over what is scored together",
    )

    @property
    def gives(self) -> Gives:
        return "scores" if self.by == "sum" else "verdicts"

    @property
    def is_relative(self) -> bool:
        return self.by == "sum" and self.standardize

    def asks(self) -> list[str]:
        return list(self.of)
