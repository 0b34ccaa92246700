"""Rows in TRL's dataset formats, each with its place in its source, and with how it reads as a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from align_cli.data.formats.base import Exchange, Found
from align_cli.data.messages import Message, Text, assistant_message, user_message
from align_cli.data.template_fields import template_fields
from align_cli.data.transcripts import transcript_turns


class Row(dict[str, Any]):
    """One row in a format of TRL's; equal to any dict that has its fields.

    Args:
        fields: what it holds.
        where: its place, such as `rows.jsonl:12`.
        name: the format that it was read from; empty for a row of a built-in world.
        to_chat: makes the fields of the same as a conversation; None where it is one, or cannot be one.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        where: str,
        name: str = "",
        to_chat: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(fields)
        self.where, self.name, self.to_chat = where, name, to_chat

    def with_fields(self, fields: Mapping[str, Any]) -> Row:
        """A row of other fields from the same place, which is what it is."""
        return Row(fields, self.where, self.name)


def place_of(row: Mapping[str, Any], index: int) -> str:
    """Where a row came from: its place in its source; the number of one that has none, as those of built-in worlds."""
    return row.where if isinstance(row, Row) else f"row {index}"


def row_of(found: Found, exchange: Exchange, answers: Mapping[str, Text], **extra: Any) -> Row:
    """A prompt with its answers as a row.

    Args:
        found: where it was found, with what its chat's template gets.
        exchange: the prompt.
        answers: what was answered, by the row's keys.
        extra: what the row holds besides.
    """
    prompt = exchange.prompt

    def chat() -> dict[str, Any]:
        turns = list(exchange.turns) or transcript_turns(str(prompt)) or [user_message(str(prompt))]
        replies = {name: [_reply(answer)] for name, answer in answers.items() if isinstance(answer, str)}
        return {"prompt": turns, **replies, **extra, **template_fields(found.fields, turns)}

    fields = {"prompt": prompt, **answers, **extra, **found.template}
    return Row(fields, found.where, found.name, chat if prompt and isinstance(prompt, str) else None)


def _reply(text: str) -> Message:
    """An answer as a message, without the space that joins it to its prompt in a text."""
    return assistant_message(text.removeprefix(" "))
