"""Labelers of kind `dataset`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from align_cli.recipe.sections.labelers.base import LabelerSection


class DatasetLabelerSection(LabelerSection):
    """A labeler of kind `dataset`: the labels that offline pairs came with."""

    kind: Literal["dataset"] = Field(description="what gives the labels")
