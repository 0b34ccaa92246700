"""`messages` or `conversations`: one whole conversation, in TRL's and OpenAI's shape or in ShareGPT's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align_cli.data.faults import RowError
from align_cli.data.formats.base import (
    DEMONSTRATIONS,
    PROMPTS,
    Answer,
    Choices,
    Dropped,
    Exchange,
    Format,
    Wanted,
    holds,
)
from align_cli.data.messages import to_messages, without_last_reply

NAMES = ("messages", "conversations")


class Conversation(Format):
    name = "conversation"
    fields = "`messages` (role, content) or `conversations` (from, value)"
    gives = (DEMONSTRATIONS, PROMPTS)
    example = """{"messages": [
  {"role": "user", "content": "Two and two?"},
  {"role": "assistant", "content": "Four."}]}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        is_shown = wanted == DEMONSTRATIONS and holds(row, "completion")
        return any(holds(row, name) for name in NAMES) and not is_shown

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        name = next(name for name in NAMES if holds(row, name))
        exchange = exchange_of_conversation(row[name], name)
        if wanted == DEMONSTRATIONS and not exchange.answers:
            last = to_messages(row[name], name)[-1]
            raise RowError(
                f"the last message of {name!r} is the {last['role']}'s; there is no reply to learn",
                "end the conversation with the assistant's reply",
            )
        yield exchange.with_system(row.get("system"))


def exchange_of_conversation(value: Any, name: str) -> Exchange:
    """A conversation up to the assistant's last reply, and that reply where it ends with one.

    Raises:
        RowError: if it is no conversation, or holds the assistant's words alone.
    """
    messages = to_messages(value, name)
    prompt = without_last_reply(messages)
    if not prompt:
        raise RowError(f"{name!r} holds the assistant's words alone; a prompt must come before them")
    reply = messages[len(prompt) :]
    return Exchange(prompt, (Answer(reply),) if reply else ())
