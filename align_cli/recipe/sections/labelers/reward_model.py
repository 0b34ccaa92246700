"""Labelers of kind `reward_model`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from align_cli.recipe.checking.files import PATH_STARTS
from align_cli.recipe.data_names import exists
from align_cli.recipe.sections.labelers.base import LabelerSection

OF_RUN = "run"
"""In the place of a model: the one that the run's own section `reward` fits."""
REWARD_MODEL = "reward_model"
"""The artifact that holds it."""


class RewardModelLabelerSection(LabelerSection):
    """A labeler of kind `reward_model`: a sequence classifier with one output, which reads by its own chat template."""

    kind: Literal["reward_model"] = Field(description="what gives the labels")
    model_name_or_path: str = Field(
        min_length=1, description="a Hub id, a folder, or `run`: what the recipe's section `reward` fits"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a Hub model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="type of the loaded weights; `auto` is that of the files"
    )
    device: str = Field("auto", description="where it runs, as in `policy.device`")
    batch_size: int = Field(16, ge=1, description="completions a forward pass; those of a length go together")
    reverse: bool = Field(False, description="turn the sign, as of a cost model, whose output is high for what is bad")
    trust_remote_code: bool = Field(False, description="run code that ships with the model; off unless you read it")

    def artifacts(self) -> tuple[str, ...]:
        return (REWARD_MODEL,) if self.model_name_or_path == OF_RUN else ()

    def files(self) -> dict[str, str]:
        if self.artifacts():
            return super().files()
        is_path = self.model_name_or_path.startswith(PATH_STARTS) or exists(self.model_name_or_path)
        return {**super().files(), **({"model_name_or_path": self.model_name_or_path} if is_path else {})}
