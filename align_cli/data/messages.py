"""Conversations: the shapes that others use -> a list of `{"role": ..., "content": ...}`.

Known shapes: TRL's and OpenAI's `role`/`content`, ShareGPT's `from`/`value`, and content given as a list of text parts;
each also as JSON text, as tables store it. Beside role and content a message keeps what chat templates read: reasoning
(`reasoning_content`, `thinking`), `tool_calls`, `tool_call_id` and `name`. Everything else (a loss weight) is left out;
what cannot be left out without changing the conversation (images, the `function_call` of old) is a fault.
"""

from __future__ import annotations

import re
from typing import Any

from align_cli.data.faults import RowError, describe, list_keys, missing_key, shorten, text_of
from align_cli.data.strict_json import JsonSyntaxError, decode_at, skip_whitespace
from align_cli.data.template_fields import tool_calls
from align_cli.errors import nearest

Message = dict[str, Any]
Text = str | list[Message]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "observation": "tool",
}
TEXT_FIELDS = ("reasoning_content", "thinking", "tool_call_id", "name")
"""What a message holds for templates besides its role, its content and its tool calls: each text."""

MESSAGE_KEYS = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})
LOOKS_LIKE_MESSAGES = re.compile(r"""\s*\[?\s*\{.*?(?P<quote>["'])(role|from)(?P=quote)\s*:""", re.DOTALL)
LOOKS_LIKE_CONTENT = re.compile(r"""["'](content|value|tool_calls)["']\s*:""")


def text_or_messages(value: Any, name: str) -> Text:
    """A text, or a conversation: a list of messages, a single one, or either as JSON text.

    Raises:
        RowError: if it is neither.
    """
    if isinstance(value, str):
        written = _written_messages(value, name)
        return text_of(value, name) if written is None else to_messages(written, name)
    return to_messages(value, name) if isinstance(value, list | dict) else text_of(value, name)


def to_messages(value: Any, name: str) -> list[Message]:
    """A conversation, from a list of messages or a single one, or from either as JSON text.

    Args:
        value: what the row holds.
        name: its key, for the fault.

    Raises:
        RowError: if it is neither, is empty, or one of its messages cannot be read.
    """
    if isinstance(value, str):
        value = _written_messages(value, name) or value
    if isinstance(value, dict):
        return [_to_message(value, name)]
    if not isinstance(value, list):
        raise RowError(f"{name!r} is {describe(value)}; it must be a list of messages")
    if not value:
        raise RowError(f"{name!r} is an empty list; it must hold at least one message")
    return [_to_message(message, f"{name}[{index}]") for index, message in enumerate(value)]


def with_system(messages: list[Message], system: str) -> list[Message]:
    """The conversation with a system message at its front, unless it has one or the system text is blank."""
    if not system.strip() or (messages[:1] and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]


def user_message(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant_message(text: str) -> Message:
    return {"role": "assistant", "content": text}


def without_last_reply(messages: list[Message]) -> list[Message]:
    """The conversation up to the point where the assistant speaks for the last time, if it ends there."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    return messages[:end]


def is_reply(messages: list[Message]) -> bool:
    """Whether these are the assistant's own new messages: it begins and ends them, and no user speaks between."""
    roles = [message["role"] for message in messages]
    return bool(roles) and roles[0] == roles[-1] == "assistant" and set(roles) <= {"assistant", "tool"}


def _to_message(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise RowError(
            f"{name!r} is {describe(value)}; it must be a message", 'a message looks like {"role": ..., "content": ...}'
        )
    is_sharegpt = value.get("from") is not None and value.get("role") is None
    role_key, content_key = ("from", "value") if is_sharegpt else ("role", "content")
    if value.get("function_call"):
        raise RowError(f"{name!r} holds 'function_call'", "write it as 'tool_calls'")
    calls = tool_calls(value["tool_calls"], f"{name}.tool_calls") if value.get("tool_calls") else []
    for key in (role_key, content_key):
        if value.get(key) is None and not (calls and key == content_key):
            raise _at(name, missing_key(value, key))
    message: Message = {"role": _to_role(value[role_key], f"{name}.{role_key}")}
    if value.get(content_key) is not None:
        message["content"] = _to_content(value[content_key], f"{name}.{content_key}")
    message |= {key: text_of(value[key], f"{name}.{key}") for key in TEXT_FIELDS if value.get(key) is not None}
    return {**message, "tool_calls": calls} if calls else message


def _to_role(value: Any, name: str) -> str:
    role = text_of(value, name)
    if role not in ROLES:
        close = nearest(role.lower(), ROLES)
        hint = f"did you mean {close!r}?" if close else ""
        raise RowError(f"{name!r} is {describe(role)}; it must be one of {', '.join(ROLES)}", hint)
    return ROLES[role]


def _to_content(value: Any, name: str) -> str:
    if not isinstance(value, list):
        return text_of(value, name)
    return "".join(_part_text(part, f"{name}[{index}]") for index, part in enumerate(value))


def _part_text(part: Any, name: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        found = f"an object of type {describe(part.get('type'))}" if isinstance(part, dict) else describe(part)
        raise RowError(f"{name!r} is {found}; only text can be read", 'a part looks like {"type": "text", "text": ...}')
    for key in ("text", "value"):
        if part.get(key) is not None:
            return text_of(part[key], f"{name}.{key}")
    raise RowError(f"{name!r} has no key 'text'; found {list_keys(part)}")


def _written_messages(text: str, name: str) -> Any:
    """The messages that a text spells as JSON; None for any other text.

    Raises:
        RowError: for a text that looks like messages, and is no JSON.
    """
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value, end, problem = decode_at(text, 0)
        if skip_whitespace(text, end) < len(text):
            raise JsonSyntaxError("Extra data", end)
    except JsonSyntaxError as error:
        if LOOKS_LIKE_MESSAGES.match(text) and LOOKS_LIKE_CONTENT.search(text):
            raise RowError(
                f"{name!r} looks like messages written as JSON, and is not valid JSON at character "
                f"{error.position + 1} ({error.reason}): {shorten(text)}",
                "write it with json.dumps, or as a list of messages",
            ) from None
        return None
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict) or not any(keys <= first.keys() for keys in MESSAGE_KEYS):
        return None
    if problem:
        raise _at(name, problem)
    return value


def _at(name: str, error: RowError) -> RowError:
    return RowError(f"{name!r}: {error.what}", error.hint)
