"""What every section is made with."""

from __future__ import annotations

import types
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticKnownError, core_schema


class Section(BaseModel):
    """A mapping of the recipe: unknown keys are faults, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=False)


@dataclass(frozen=True)
class Usual:
    """Beside a key's type: which values are usual, shown where a value is out of range."""

    words: str


@dataclass(frozen=True, eq=False)
class OneOf:
    """Beside `str`: the text must be one of a table's names. The table is looked at anew for each value."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.names)}

    def _checked(self, value: str) -> str:
        if value not in self.names:
            raise PydanticKnownError("literal_error", {"expected": " or ".join(self.names)})
        return value


def section_models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's annotation allows: none for a plain value, several for a choice of sections."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return [model for part in get_args(annotation) for model in section_models(part)]
    return []
