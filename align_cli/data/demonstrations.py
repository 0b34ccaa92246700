"""Demonstrations for supervised fine-tuning -> `{"prompt", "completion"}`, TRL's prompt-completion format.

The first of these that a row has says what it shows:

    completion        with `prompt`: text or messages; a text beside messages becomes a message
    messages          a conversation that ends with the assistant's reply, which is the completion
    conversations     the same, in ShareGPT's shape
    output            with `instruction`, and `input` if it has one: the Alpaca template (see `templates.py`)
    text              plain text: an empty prompt, and the text as its completion

A pair of `chosen` and `rejected` that shows nothing else (none of completion, messages, output, text) gives its chosen
side, as `read_preferences` reads it; pairs that it drops are left out.

With `system`, text becomes a conversation, and a conversation begins with it. A conversation keeps its `tools` and its
`chat_template_kwargs` (see `template_fields.py`). A `.txt` file holds one text a line. All other keys are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from align_cli.data.faults import RowError, missing_key, misspelling_of, shorten, text_of
from align_cli.data.messages import (
    Message,
    Text,
    assistant_message,
    is_reply,
    text_or_messages,
    to_messages,
    user_message,
    with_system,
    without_last_reply,
)
from align_cli.data.preferences import DroppedPair, is_pair, to_preference
from align_cli.data.sources import Row, convert_rows
from align_cli.data.template_fields import template_fields
from align_cli.data.templates import instruction_prompt
from align_cli.errors import DataError

KNOWN_KEYS = ("completion", "messages", "conversations", "output", "text", "prompt", "instruction")
COMPLETION_KEYS = ("completion", "messages", "output", "text")


class Demonstration(NamedTuple):
    """A prompt and the completion to learn: both text, or both messages."""

    prompt: Text
    completion: Text


def read_demonstrations(name_or_path: str, *, split: str = "train") -> list[Row]:
    """The demonstrations of a file, a folder or a Hub id.

    Args:
        name_or_path: a `.jsonl`, `.json`, `.csv`, `.txt` (each also `.gz`) or `.parquet` file; a folder with one data
            file a split; a Hub id, with `:configuration` where the dataset has several.
        split: the split of a folder or a Hub dataset.

    Returns:
        `{"prompt", "completion"}` dicts, with `tools` and `chat_template_kwargs` where the source has them, in the
        order of the source, at least one. Prompt and completion joined are the natural text. Each knows its place.

    Raises:
        DataError: for every row that shows nothing to learn, or if there is none left.
    """
    demonstrations = [row for row in convert_rows(name_or_path, split, _to_row) if row is not None]
    if not demonstrations:
        raise DataError("no row is a demonstration", where=name_or_path, hint="give the keys prompt and completion")
    return demonstrations


def _to_row(row: dict[str, Any]) -> dict[str, Any] | None:
    demonstration = _to_demonstration(row)
    if demonstration is None:
        return None
    return {**demonstration._asdict(), **template_fields(row, demonstration.prompt)}


def _to_demonstration(row: dict[str, Any]) -> Demonstration | None:
    if is_pair(row) and all(row.get(key) is None for key in COMPLETION_KEYS):
        pair = to_preference(row)
        return None if isinstance(pair, DroppedPair) else Demonstration(pair["prompt"], pair["chosen"])
    name = next((key for key in KNOWN_KEYS if row.get(key) is not None), None)
    demonstration = _demonstration_at(row, name)
    if row.get("system") is None:
        return demonstration
    prompt, completion = _as_messages(demonstration)
    return Demonstration(with_system(prompt, text_of(row["system"], "system")), completion)


def _demonstration_at(row: dict[str, Any], name: str | None) -> Demonstration:
    if name in {"prompt", "completion"}:
        return _from_prompt(row)
    if name in {"messages", "conversations"}:
        return _from_conversation(to_messages(row[name], name), name)
    if name in {"instruction", "output"}:
        return Demonstration(instruction_prompt(row), text_of(_at(row, "output"), "output"))
    if name == "text":
        return Demonstration("", text_of(row["text"], "text"))
    raise _nothing_known(row)


def _from_prompt(row: dict[str, Any]) -> Demonstration:
    prompt, completion = (text_or_messages(_at(row, name), name) for name in ("prompt", "completion"))
    if isinstance(prompt, str) and isinstance(completion, str):
        return Demonstration(prompt, completion)
    prompt, completion = _as_messages(Demonstration(prompt, completion))
    if not is_reply(completion):
        roles = ", ".join(message["role"] for message in completion)
        raise RowError(f"'completion' holds {shorten(roles)[1:-1]}; it must be the assistant's reply alone")
    return Demonstration(prompt, completion)


def _from_conversation(messages: list[Message], name: str) -> Demonstration:
    prompt = without_last_reply(messages)
    if len(prompt) == len(messages):
        raise RowError(
            f"the last message of {name!r} is the {messages[-1]['role']}'s; there is no reply to learn",
            "end the conversation with the assistant's reply",
        )
    if not prompt:
        raise RowError(f"{name!r} holds the assistant's words alone; a prompt must come before them")
    return Demonstration(prompt, messages[len(prompt) :])


def _as_messages(demonstration: Demonstration) -> tuple[list[Message], list[Message]]:
    prompt, completion = demonstration
    return (
        [user_message(prompt)] if isinstance(prompt, str) else prompt,
        [assistant_message(completion)] if isinstance(completion, str) else completion,
    )


def _at(row: dict[str, Any], name: str) -> Any:
    if row.get(name) is None:
        raise missing_key(row, name, KNOWN_KEYS)
    return row[name]


def _nothing_known(row: dict[str, Any]) -> RowError:
    for wanted in misspelling_of(KNOWN_KEYS, row):
        return missing_key(row, wanted)
    error = missing_key(row, "prompt", KNOWN_KEYS)
    return RowError(error.what, error.hint or f"a demonstration has one of the keys {', '.join(KNOWN_KEYS)}")
