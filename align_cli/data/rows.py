"""Rows in TRL's dataset formats, each with its place in its source, and with how it reads as a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from align_cli.data.formats.base import Exchange, Found
from align_cli.data.messages import Message, Text, assistant_message, user_message
from align_cli.data.template_fields import template_fields
from align_cli.data.transcripts import transcript_turns

ALPACA, TRANSCRIPTS, TEXTS = "Alpaca rows", "transcripts", "plain texts"


class Row(dict[str, Any]):
    """One row in a format of TRL's; equal to any dict that has its fields.

    Args:
        fields: what it holds.
        where: its place, such as `rows.jsonl:12`.
        name: the format that it was read from; empty for a row of a built-in world.
        to_chat: makes the same row as a conversation; None where it is one, or cannot be one.
        made_of: for a conversation that was made of text, what kind of text; else empty.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        where: str,
        name: str = "",
        to_chat: Callable[[], Row] | None = None,
        made_of: str = "",
    ) -> None:
        super().__init__(fields)
        self.where, self.name, self.to_chat, self.made_of = where, name, to_chat, made_of

    def with_fields(self, **fields: Any) -> Row:
        """The row with some other fields; what it could become is forgotten."""
        return Row({**self, **fields}, self.where, self.name, made_of=self.made_of)


class Rows(list[Row]):
    """The rows of a source, and what had to be left out of it.

    Args:
        rows: in the order of the source.
        dropped: how many were left out, by reason.
    """

    def __init__(self, rows: Iterable[Row], dropped: Mapping[str, int]) -> None:
        super().__init__(rows)
        self.dropped = dict(dropped)


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
    prompt, name = exchange.prompt, f"{found.name} ({exchange.kind})" if exchange.kind else found.name

    def chat() -> Row:
        text = str(prompt)
        kinds = {ALPACA: list(exchange.turns), TRANSCRIPTS: transcript_turns(text), TEXTS: [user_message(text)]}
        kind, turns = next((kind, turns) for kind, turns in kinds.items() if turns)
        replies = {name: [_reply(answer)] for name, answer in answers.items() if isinstance(answer, str)}
        fields = {"prompt": turns, **replies, **extra, **template_fields(found.fields, turns)}
        return Row(fields, found.where, name, made_of=kind)

    fields = {"prompt": prompt, **answers, **extra, **found.template}
    return Row(fields, found.where, name, chat if prompt and isinstance(prompt, str) else None)


def _reply(text: str) -> Message:
    """An answer as a message, without the space that joins it to its prompt in a text."""
    return assistant_message(text.removeprefix(" "))
