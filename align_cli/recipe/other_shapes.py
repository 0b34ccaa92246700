"""What was meant where a value has another shape than its key: a bare value for a section, a name for a list.

Called by `faults` for the remedy, which is the value written in the key's shape. Nothing is guessed: what is told fits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from align_cli.recipe.checking.section import section_models
from align_cli.recipe.written.scalars import read_scalar
from align_cli.recipe.written.tree import shown
from align_cli.redaction import masked

SMALL, MOST_KEYS = 6, 3
"""Keys of a section, and of those that take a bare number: with more, nobody knows which is meant. Text says what it
is."""
LONGEST = 50
"""Characters of a value that is worth writing again."""
_WORD = re.compile(r"[^\W\d_][\w./@+-]*")
_WEIGHT = 1
"""What a name in a list weighs where each has a number beside it."""


def written_in_shape(value: Any, info: FieldInfo) -> str:
    """The value in the shape of its key, as YAML; empty where that is not plain.

    Args:
        value: that was found.
        info: the key's field.
    """
    if len(str(value)) > LONGEST:
        return ""
    texts = [_yaml(meant) for meant in _meant(value, info)]
    return " or ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def _meant(value: Any, info: FieldInfo) -> Iterator[Any]:
    """What fits the key and holds no more than the value."""
    models = section_models(info.annotation)
    if models:
        yield from _sections(value, models[0])
        return
    for meant in (_as_mapping(value, info), _as_list(value), value[0] if _is_list_of(value, object, 1) else None):
        if meant is not None and meant != value and _fits(meant, info):
            yield meant
            return


def _sections(value: Any, model: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """With the bare value at keys of theirs: at those that have to be there, or else at any one."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return
    taking = [name for name in model.model_fields if _takes(model, name, value)]
    needed = [name for name in taking if model.model_fields[name].is_required()]
    if needed:
        yield dict.fromkeys(needed, value)
    elif len(model.model_fields) <= SMALL and len(taking) <= (1 if isinstance(value, str) else MOST_KEYS):
        yield from ({name: value} for name in taking)


def _takes(model: type[BaseModel], name: str, value: Any) -> bool:
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        return all(detail["loc"][:1] != (name,) for detail in error.errors())
    return True


def _as_mapping(value: Any, info: FieldInfo) -> dict[str, Any] | None:
    """A list of sections as one, and of names as a mapping where each has a number."""
    if _is_list_of(value, dict):
        return {name: inner for part in value for name, inner in part.items()}
    is_weighted = any(get_origin(kind) is dict and _is_number(get_args(kind)[1]) for kind in _kinds(info.annotation))
    return dict.fromkeys(value, _WEIGHT) if is_weighted and _is_list_of(value, str) else None


def _as_list(value: Any) -> list[Any] | None:
    if isinstance(value, list) or value is None:
        return None
    return list(value) if isinstance(value, dict) else [value]


def _is_list_of(value: Any, kind: type, num: int | None = None) -> bool:
    is_list = isinstance(value, list) and bool(value) and num in (None, len(value))
    return is_list and all(isinstance(item, kind) for item in value)


def _kinds(annotation: Any) -> list[Any]:
    """An annotation, and those that it allows one of."""
    return [annotation, *get_args(annotation)]


def _is_number(annotation: Any) -> bool:
    return bool({int, float} & set(_kinds(annotation)))


def _fits(value: Any, info: FieldInfo) -> bool:
    kind: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _yaml(value: Any) -> str:
    """A value in one line, as a recipe has it."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_yaml(name)}: {_yaml(inner)}' for name, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, str):
        is_plain = _WORD.fullmatch(value) and read_scalar(value, quoted=False, tag=None) == value
        return value if is_plain and masked(value) == value else json.dumps(masked(value))
    return "null" if value is None else shown(value)
