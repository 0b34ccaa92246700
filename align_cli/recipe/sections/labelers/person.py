"""Labelers of kind `person`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from align_cli.recipe.sections.labelers.base import Gives, LabelerSection


class PersonLabelerSection(LabelerSection):
    """A labeler of kind `person`: whoever sits before the terminal of `align label`, or fills in a CSV file."""

    kind: Literal["person"] = Field(description="what gives the labels")

    @property
    def gives(self) -> Gives:
        return "verdicts"
