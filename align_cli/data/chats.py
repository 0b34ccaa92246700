"""Text or conversations: what a recipe makes of rows for a policy that chats, and what it adds to conversations.

Text becomes messages where `data.as_chat` says so: a prompt is what the user says, an answer what the assistant says;
Alpaca's rows lose their template, and a transcript (`\\n\\nHuman: ...`) becomes its turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from align_cli.data.faults import FaultLog, RowError
from align_cli.data.messages import with_system
from align_cli.data.rows import Row
from align_cli.data.thinking import without_thinking
from align_cli.errors import DataError, counted

RESPONSES = ("chosen", "rejected", "completion")


@dataclass(frozen=True)
class Form:
    """The form in which a recipe wants rows.

    Args:
        as_chat: `always` makes conversations of all text, `never` of none, `auto` of all where the policy chats.
        policy_chats: whether the policy has a chat template.
        system_prompt: begins every conversation that has no system message; None for none.
        thinking: whether thinking blocks stay in responses.
    """

    as_chat: Literal["auto", "always", "never"] = "auto"
    policy_chats: bool = False
    system_prompt: str | None = None
    thinking: Literal["keep", "strip"] = "keep"

    @property
    def makes_chats(self) -> bool:
        """Whether text becomes conversations."""
        return self.as_chat == "always" or (self.as_chat == "auto" and self.policy_chats)


def in_form(rows: Sequence[Row], form: Form, key: str) -> list[Row]:
    """The rows in the form that a recipe wants.

    Args:
        rows: as they were read.
        form: the recipe's.
        key: the recipe's key that names them, for faults.

    Raises:
        DataError: for a mixture of text and conversations that nobody chose; for texts that cannot be what is wanted.
    """
    if form.as_chat == "auto":
        _check_alike(rows, key)
    if form.makes_chats:
        rows = _as_chats(rows, form, key)
    if form.system_prompt is not None:
        rows = _with_system(rows, form.system_prompt, key)
    if form.thinking == "strip":
        rows = [_without_thinking(row) for row in rows]
    return list(rows)


def _check_alike(rows: Sequence[Row], key: str) -> None:
    texts = [row for row in rows if isinstance(row["prompt"], str)]
    if texts and len(texts) < len(rows):
        chat = next(row for row in rows if not isinstance(row["prompt"], str))
        raise DataError(
            f"{counted(len(texts), 'row is', 'rows are')} plain text, the first {texts[0].where}, and "
            f"{counted(len(rows) - len(texts), 'is a conversation', 'are conversations')}, the first {chat.where}",
            where=key,
            hint="set data.as_chat to always, which makes conversations of all; or to never, which leaves them as they "
            "are",
        )


def _as_chats(rows: Sequence[Row], form: Form, key: str) -> list[Row]:
    """Every text that has a prompt as a conversation; texts to learn from alone stay as they are, if they may."""
    log, made = FaultLog(key), []
    for row in rows:
        is_text = isinstance(row["prompt"], str)
        if is_text and row.to_chat is None and form.as_chat == "always":
            log.add(RowError("a text without a prompt is no conversation", "set data.as_chat to never").at(row.where))
        try:
            made.append(row if row.to_chat is None else row.to_chat())
        except RowError as error:
            log.add(error.at(row.where))
    log.raise_if_any()
    return made


def _with_system(rows: Sequence[Row], system_prompt: str, key: str) -> list[Row]:
    texts = [row for row in rows if isinstance(row["prompt"], str)]
    if texts:
        raise DataError(
            f"data.system_prompt is set, and {len(texts)} of {len(rows)} rows are plain text, the first "
            f"{texts[0].where}",
            where=key,
            hint="set data.as_chat to always, or leave data.system_prompt out",
        )
    return [row.with_fields(prompt=with_system(row["prompt"], system_prompt)) for row in rows]


def _without_thinking(row: Row) -> Row:
    stripped: dict[str, Any] = {name: without_thinking(row[name]) for name in RESPONSES if name in row}
    return row.with_fields(**stripped) if stripped else row
