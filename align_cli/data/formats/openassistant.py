"""OpenAssistant's trees of messages: flat, one message a row, or nested, one tree a row (arXiv:2304.07327).

Every message of a prompter's that was answered gives an exchange: the conversation up to it, and the answers to it with
their ranks, of which 0 is the best; answers without a rank are not compared. A message that is deleted, or that failed
its review, is left out with all that follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from align_cli.data.faults import RowError, describe, text_of
from align_cli.data.files import SourceRow
from align_cli.data.formats.base import Answer, Choices, Dropped, Exchange, Format, Found, Wanted, at, holds, number_of
from align_cli.data.messages import Message, assistant_message, user_message
from align_cli.errors import Fault

ROLES = {"prompter": user_message, "assistant": assistant_message}


class OpenAssistant(Format):
    name = "OpenAssistant"
    fields = "`message_id`, `parent_id` for answers, `role` (prompter, assistant), `text`, `rank`; or a nested `prompt`"
    example = """{"message_id": "1", "parent_id": null, "role": "prompter", "text": "Name a colour."}
{"message_id": "2", "parent_id": "1", "role": "assistant", "text": "Blue.", "rank": 0}
{"message_id": "3", "parent_id": "1", "role": "assistant", "text": "No.", "rank": 1}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return _is_tree(row) or (holds(row, "message_id", "role") and "text" in row)

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        yield from _exchanges(row, [])

    def spans_rows(self, wanted: Wanted) -> bool:
        return True

    def of_all(self, rows: Sequence[SourceRow], wanted: Wanted, choices: Choices) -> Iterator[Found | Fault]:
        roots, faults = _trees(rows)
        yield from faults
        for where, message in roots:
            try:
                for exchange in self.exchanges(message, wanted, choices):
                    yield Found(where, {}, self.name, exchange)
            except RowError as error:
                yield error.at(where)


def _is_tree(row: Mapping[str, Any]) -> bool:
    prompt = row.get("prompt")
    return isinstance(prompt, dict) and holds(prompt, "role", "text") and "replies" in prompt


def _trees(rows: Sequence[SourceRow]) -> tuple[list[SourceRow], list[Fault]]:
    """The messages that begin a conversation, each with those that follow it in `replies`; and what belongs nowhere."""
    trees = [SourceRow(where, fields["prompt"]) for where, fields in rows if _is_tree(fields)]
    roots = []
    messages, faults = _by_id([row for row in rows if not _is_tree(row.fields)])
    for where, message in messages.values():
        if message["parent_id"] is None:
            roots.append(SourceRow(where, message))
        elif message["parent_id"] in messages:
            messages[message["parent_id"]].fields["replies"].append(message)
    reached = {message["message_id"] for _, root in roots for message in _walk(root)}
    for name, (where, message) in messages.items():
        if name not in reached:
            what = f"no conversation leads to it: 'parent_id' is {describe(message['parent_id'])}"
            faults.append(RowError(what, "give the whole tree, or remove the row").at(where))
    return [*trees, *roots], faults


def _by_id(rows: Sequence[SourceRow]) -> tuple[dict[str, SourceRow], list[Fault]]:
    """The messages by their ids, with the answers to each still to come."""
    messages: dict[str, SourceRow] = {}
    faults = []
    for where, fields in rows:
        try:
            name = text_of(fields["message_id"], "message_id")
            parent = text_of(fields["parent_id"], "parent_id") if holds(fields, "parent_id") else None
            if name in messages:
                what = f"'message_id' is {describe(name)}, as of {messages[name].where}"
                raise RowError(what, "remove one of the two")
            messages[name] = SourceRow(where, {**fields, "parent_id": parent, "replies": []})
        except RowError as error:
            faults.append(error.at(where))
    return messages, faults


def _walk(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    stack = [root]
    while stack:
        message = stack.pop()
        yield message
        stack += _replies(message)


def _exchanges(message: Mapping[str, Any], before: list[Message]) -> Iterator[Exchange]:
    """What is answered to a prompter's message, and to those that follow it."""
    stack = [(dict(message), before)]
    while stack:
        message, before = stack.pop()
        if not _is_kept(message):
            continue
        role = text_of(at(message, "role"), "role")
        if role not in ROLES:
            raise RowError(f"'role' is {describe(role)}; it must be prompter or assistant")
        here = [*before, ROLES[role](text_of(at(message, "text"), "text"))]
        replies = [reply for reply in _replies(message) if _is_kept(reply)]
        if role == "prompter":
            yield Exchange(here, [_answer(reply) for reply in replies])
        stack += [(reply, here) for reply in reversed(replies)]


def _replies(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    replies = message.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise RowError(f"'replies' is {describe(replies)}; it must be a list of messages")
    return replies


def _answer(reply: dict[str, Any]) -> Answer:
    score = -number_of(reply["rank"], "rank") if holds(reply, "rank") else None
    return Answer([assistant_message(text_of(at(reply, "text"), "text"))], score)


def _is_kept(message: Mapping[str, Any]) -> bool:
    return not message.get("deleted") and message.get("review_result") is not False
