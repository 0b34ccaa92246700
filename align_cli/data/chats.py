"""Text or conversations: what a recipe makes of rows for a policy that chats, and what it adds to conversations.

Text becomes messages where `data.as_chat` says so: a prompt is what the user says, an answer what the assistant says;
Alpaca's rows lose their template, and a transcript (`\\n\\nHuman: ...`) becomes its turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from align_cli.data.faults import FaultLog, RowError
from align_cli.data.messages import with_system
from align_cli.data.rows import RESPONSES, Facts, Row, Rows
from align_cli.data.thinking import without_thinking
from align_cli.errors import DataError, counted


@dataclass(frozen=True)
class Form:
    """The form in which a recipe wants rows.

    Args:
        as_chat: `always` makes conversations of all text, `never` of none, `auto` of all where the policy chats.
        policy_chats: whether the policy has a chat template.
        system_prompt: begins every conversation that has no system message; None for none.
        thinking: whether thinking blocks stay in responses.
        template_arguments: what the template of every conversation gets; a row's own win.
    """

    as_chat: Literal["auto", "always", "never"] = "auto"
    policy_chats: bool = False
    system_prompt: str | None = None
    thinking: Literal["keep", "strip"] = "keep"
    template_arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def makes_chats(self) -> bool:
        """Whether text becomes conversations."""
        return self.as_chat == "always" or (self.as_chat == "auto" and self.policy_chats)

    def changes(self, facts: Facts) -> bool:
        """Whether any of these rows may be another one in this form."""
        added = self.system_prompt is not None or self.thinking == "strip" or bool(self.template_arguments)
        return added or (self.makes_chats and facts.texts > 0)


def in_form(rows: Rows, form: Form, key: str) -> Rows:
    """The rows in the form that a recipe wants.

    Args:
        rows: as they were read.
        form: the recipe's.
        key: the recipe's key that names them, for faults.

    Raises:
        DataError: for a mixture of text and conversations that nobody chose; for texts that cannot be what is wanted.
    """
    facts = rows.facts
    if form.as_chat == "auto" and facts.texts and facts.chats:
        raise _mixed(rows, facts, key)
    if not form.changes(facts):
        return rows
    formed = Rows(_formed(rows, form, key), rows.dropped)
    if form.system_prompt is not None and formed.facts.first_text is not None:
        raise DataError(
            f"data.system_prompt is set, and {formed.facts.texts} of {len(rows)} rows are plain text, the first "
            f"{rows[formed.facts.first_text].where}",
            where=key,
            hint="set data.as_chat to always, or leave data.system_prompt out",
        )
    return formed


def _mixed(rows: Sequence[Row], facts: Facts, key: str) -> DataError:
    text, chat = (rows[index or 0].where for index in (facts.first_text, facts.first_chat))
    return DataError(
        f"{counted(facts.texts, 'row is', 'rows are')} plain text, the first {text}, and "
        f"{counted(facts.chats, 'is a conversation', 'are conversations')}, the first {chat}",
        where=key,
        hint="set data.as_chat to always, which makes conversations of all; or to never, which leaves them as they are",
    )


def _formed(rows: Sequence[Row], form: Form, key: str) -> Iterator[Row]:
    """Each row in its form; texts to learn from alone, which have no prompt, stay as they are, if they may.

    Raises:
        DataError: behind the last row, for all texts that are no conversations.
    """
    log = FaultLog(key)
    for row in rows:
        if form.as_chat == "always" and isinstance(row["prompt"], str) and row.chat is None:
            log.add(RowError("a text without a prompt is no conversation", "set data.as_chat to never").at(row.where))
        try:
            yield _finished(row.as_chat() if form.makes_chats else row, form)
        except RowError as error:
            log.add(error.at(row.where))
    log.raise_if_any()


def _finished(row: Row, form: Form) -> Row:
    """A row with what a recipe adds to conversations, and without what it takes from responses."""
    if form.system_prompt is not None and not isinstance(row["prompt"], str):
        row = row.with_fields(prompt=with_system(row["prompt"], form.system_prompt))
    if form.thinking == "strip":
        row = _without_thinking(row)
    if form.template_arguments and not isinstance(row["prompt"], str):
        own = row.get("chat_template_kwargs", {})
        row = row.with_fields(chat_template_kwargs={**form.template_arguments, **own})
    return row


def _without_thinking(row: Row) -> Row:
    stripped: dict[str, Any] = {name: without_thinking(row[name]) for name in RESPONSES if name in row}
    return row.with_fields(**stripped) if stripped else row
