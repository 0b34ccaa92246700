"""What a row holds for its chat's template besides the messages, by TRL's names: `tools` and `chat_template_kwargs`.

Both may be JSON text, as tables store them. A plain text has no template, so nothing is read for it.
"""

from __future__ import annotations

from typing import Any

from align_cli.data.faults import RowError, describe, shorten, text_of
from align_cli.data.strict_json import JsonSyntaxError, decode_at, skip_whitespace


def template_fields(row: dict[str, Any], prompt: Any) -> dict[str, Any]:
    """The fields that the row's template gets, without those that are missing or empty.

    Args:
        row: as it was read; `tools` is a list of JSON schemas, `chat_template_kwargs` an object.
        prompt: the row's prompt, text or messages.

    Raises:
        RowError: if one of them has another shape.
    """
    if isinstance(prompt, str):
        return {}
    fields = {"tools": _tools(row), "chat_template_kwargs": _keyword_arguments(row)}
    return {key: value for key, value in fields.items() if value}


def tool_calls(value: Any, name: str) -> list[dict[str, Any]]:
    """A message's tool calls; arguments that are JSON text, as OpenAI has them, become the object that templates want.

    Args:
        value: a list of calls, each with `function` or with `name` and `arguments`; or that as JSON text.
        name: its key, for the fault.

    Raises:
        RowError: if it is no list of calls.
    """
    calls = _objects(value, name)
    for index, call in enumerate(calls):
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError(
                f"'{name}[{index}]' is {describe(call)}; it must name a function",
                'a call looks like {"type": "function", "function": {"name": ..., "arguments": {...}}}',
            )
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            function["arguments"] = _object(arguments, f"{name}[{index}].arguments")
    return calls


def _tools(row: dict[str, Any]) -> list[dict[str, Any]]:
    value = row.get("tools")
    return [] if value is None or value == "" else _objects(value, "tools")


def _keyword_arguments(row: dict[str, Any]) -> dict[str, Any]:
    value = row.get("chat_template_kwargs")
    return {} if value is None or value == "" else _object(value, "chat_template_kwargs")


def _objects(value: Any, name: str) -> list[dict[str, Any]]:
    """A list of objects, each of which may be JSON text, as may the whole."""
    found = _from_json(value, name)
    if not isinstance(found, list):
        raise RowError(f"{name!r} is {describe(found)}; it must be a list of objects")
    return [_object(item, f"{name}[{index}]") for index, item in enumerate(found)]


def _object(value: Any, name: str) -> dict[str, Any]:
    found = _from_json(value, name)
    if not isinstance(found, dict):
        raise RowError(f"{name!r} is {describe(found)}; it must be an object")
    _check_texts(found, name)
    return found


def _from_json(value: Any, name: str) -> Any:
    """The value that a text spells as JSON; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        found, end, problem = decode_at(value, 0)
        if skip_whitespace(value, end) < len(value):
            raise JsonSyntaxError("Extra data", end)
    except JsonSyntaxError as error:
        raise RowError(
            f"{name!r} is text and not valid JSON at character {error.position + 1} ({error.reason}): {shorten(value)}"
        ) from None
    if problem:
        raise RowError(f"{name!r}: {problem.what}", problem.hint)
    return found


def _check_texts(value: Any, name: str) -> None:
    """Refuse what no file could hold, anywhere within."""
    if isinstance(value, str):
        text_of(value, name)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_texts(key, name)
            _check_texts(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_texts(inner, f"{name}[{index}]")
