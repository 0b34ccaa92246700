"""Rows in TRL's dataset formats, each with its place in its source, and with how it reads as a conversation.

The rows of a source are in memory one at a time (`Rows`): a million of them take no more of it than what says where
each lies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self, TypeVar

from align_cli.artifacts import remembered
from align_cli.data.formats.base import Exchange, Found
from align_cli.data.lazy import Lazy
from align_cli.data.lines import Lines
from align_cli.data.messages import Message, Text, assistant_message, user_message
from align_cli.data.template_fields import template_fields
from align_cli.data.thinking import REASONING
from align_cli.data.transcripts import transcript_turns

ALPACA, TRANSCRIPTS, TEXTS = "Alpaca rows", "transcripts", "plain texts"
RESPONSES = ("chosen", "rejected", "completion")
TEMPLATE_FIELDS = ("tools", "chat_template_kwargs")


class AsChat(NamedTuple):
    """What a text row becomes a conversation with.

    Args:
        turns: the messages that its prompt becomes; empty for those of a transcript, or one user's message of it.
        template: what the row holds for the chat's template, as it was read.
    """

    turns: Sequence[Message]
    template: Mapping[str, Any]


class Row(dict[str, Any]):
    """One row in a format of TRL's; equal to any dict that has its fields.

    Args:
        fields: what it holds.
        where: its place, such as `rows.jsonl:12`.
        name: the format that it was read from; empty for a row of a built-in world.
        chat: what it becomes a conversation with; None where it is one, or cannot be one.
        made_of: for a conversation that was made of text, what kind of text; else empty.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        where: str,
        name: str = "",
        chat: AsChat | None = None,
        made_of: str = "",
    ) -> None:
        super().__init__(fields)
        self.where, self.name, self.chat, self.made_of = where, name, chat, made_of

    def with_fields(self, **fields: Any) -> Row:
        """The row with some other fields; what it could become is forgotten."""
        return Row({**self, **fields}, self.where, self.name, made_of=self.made_of)

    def as_chat(self) -> Row:
        """The same row as a conversation; itself where it has no other form.

        Raises:
            RowError: if it cannot be made one.
        """
        if self.chat is None:
            return self
        text = str(self["prompt"])
        kinds = {ALPACA: self.chat.turns, TRANSCRIPTS: transcript_turns(text), TEXTS: [user_message(text)]}
        kind, turns = next((kind, list(turns)) for kind, turns in kinds.items() if turns)
        said = {name: [_reply(value)] if name in RESPONSES else value for name, value in self.items()}
        fields = {**said, "prompt": turns, **template_fields(dict(self.chat.template), turns)}
        return Row(fields, self.where, self.name, made_of=kind)


RowType = TypeVar("RowType", bound=Mapping[str, Any])


@dataclass
class Facts:
    """What is known of all rows of a source together, so that nobody has to go through them for it.

    Args:
        texts: rows whose prompt is plain text.
        chats: rows whose prompt is a conversation.
        first_text: the number of the first of those; None without any.
        first_chat: likewise.
        made_of: conversations that were made of text, by the kind of text.
        for_template: what conversations hold for a template, each with the number of the first that does.
        uncertain: rows with a label below 1 that is not one half.
        ties: rows with a label of one half.
    """

    texts: int = 0
    chats: int = 0
    first_text: int | None = None
    first_chat: int | None = None
    made_of: dict[str, int] = field(default_factory=dict)
    for_template: dict[str, int] = field(default_factory=dict)
    uncertain: int = 0
    ties: int = 0

    def taking(self, rows: Iterable[RowType]) -> Iterator[RowType]:
        """The rows, each of which is taken in as it goes by."""
        for index, row in enumerate(rows):
            self._take(index, row)
            yield row

    def _take(self, index: int, row: Mapping[str, Any]) -> None:
        if isinstance(row["prompt"], str):
            self.texts += 1
            self.first_text = index if self.first_text is None else self.first_text
        else:
            self.chats += 1
            self.first_chat = index if self.first_chat is None else self.first_chat
            for name in _fields_for_a_template(row):
                self.for_template.setdefault(name, index)
        if isinstance(row, Row) and row.made_of:
            self.made_of[row.made_of] = self.made_of.get(row.made_of, 0) + 1
        label = float(row.get("label", 1.0))
        self.ties += label == 0.5
        self.uncertain += label not in (0.5, 1)


class Rows(Lazy[Row]):
    """The rows of a source, and what had to be left out of it; each is read from a file when it is asked for.

    Args:
        rows: in the order of the source; gone through once.
        dropped: how many were left out, by reason; looked at when all rows have been gone through.

    Attributes:
        facts: what is known of all of them.
        identity: stands for what they are, to the letter, where that is remembered; else None.
    """

    def __init__(self, rows: Iterable[Row] = (), dropped: Mapping[str, int] | None = None) -> None:
        self.facts = Facts()
        self._lines = Lines(map(_line_of, self.facts.taking(rows)))
        self.dropped = dict(dropped or {})
        self.identity: str | None = None

    @classmethod
    def recalled(cls, key: str) -> Self | None:
        """The rows that were kept under this key; None where there are none, or where they are not whole."""
        found = remembered.recall(key)
        lines = Lines.opened(remembered.place(f"{key}{KEPT_SUFFIX}"), str(found["rows"])) if found else None
        if found is None or lines is None:
            return None
        rows = cls()
        rows._lines, rows.facts, rows.dropped, rows.identity = lines, Facts(**found["facts"]), found["dropped"], key
        return rows

    def keep(self, key: str) -> None:
        """Keep them under this key for the starts that come after this one, if that can be written."""
        with suppress(OSError):
            digest = self._lines.keep(remembered.folder() / f"{key}{KEPT_SUFFIX}")
            remembered.remember(key, {"rows": digest, "facts": asdict(self.facts), "dropped": self.dropped})
            self.identity = key

    def __len__(self) -> int:
        return len(self._lines)

    def item(self, index: int) -> Row:
        fields, where, name, chat, made_of = json.loads(self._lines[index].decode("utf-8", "surrogatepass"))
        return Row(fields, where, name, AsChat(*chat) if chat else None, made_of)


KEPT_SUFFIX = ".rows"


def facts_of(rows: Sequence[Mapping[str, Any]]) -> Facts:
    """What is known of all of some rows; those of a source have it at hand."""
    if isinstance(rows, Rows):
        return rows.facts
    facts = Facts()
    for _ in facts.taking(rows):
        pass
    return facts


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
    for_template = {key: found.fields[key] for key in TEMPLATE_FIELDS if key in found.fields}
    chat = AsChat(exchange.turns, for_template) if prompt and isinstance(prompt, str) else None
    return Row({"prompt": prompt, **answers, **extra, **found.template}, found.where, name, chat)


def _line_of(row: Row) -> bytes:
    # What JSON has not, as tables hold dates in what is for a template, is its text.
    text = json.dumps([row, row.where, row.name, row.chat, row.made_of], ensure_ascii=False, default=str)
    return text.encode("utf-8", "surrogatepass")


def _reply(text: str) -> Message:
    """An answer as a message, without the space that joins it to its prompt in a text."""
    return assistant_message(text.removeprefix(" "))


def _fields_for_a_template(row: Mapping[str, Any]) -> Iterator[str]:
    """What a conversation holds for its template besides what messages always have."""
    yield from ["tools"] if row.get("tools") else []
    yield from row.get("chat_template_kwargs") or ()
    for response in (row[key] for key in RESPONSES if key in row):
        yield from (name for message in response for name in REASONING if message.get(name))
