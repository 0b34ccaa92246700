"""`prompt`, and `completion` where there is one: TRL's prompt-only and prompt-completion formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align_cli.data.faults import RowError, shorten
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
from align_cli.data.messages import Text, assistant_message, is_reply, text_or_messages, user_message


class Prompt(Format):
    name = "prompt"
    fields = "`prompt`, text or messages; for demonstrations also `completion`"
    gives = (DEMONSTRATIONS, PROMPTS)
    example = """{"prompt": "Name a colour:",
 "completion": " blue",
 "id": 7}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "prompt") and (wanted == PROMPTS or holds(row, "completion"))

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        prompt = text_or_messages(row["prompt"], "prompt")
        if wanted == PROMPTS:
            exchange = Exchange(prompt)
        else:
            exchange = exchange_of(prompt, text_or_messages(row["completion"], "completion"))
        yield exchange.with_system(row.get("system"))


def exchange_of(prompt: Text, completion: Text) -> Exchange:
    """A prompt with the answer to it; a text beside messages becomes a message.

    Raises:
        RowError: if the answer holds more than the assistant's reply.
    """
    if isinstance(prompt, str) and isinstance(completion, str):
        return Exchange(prompt, (Answer(completion),))
    if isinstance(completion, str):
        completion = [assistant_message(completion)]
    if not is_reply(completion):
        roles = ", ".join(message["role"] for message in completion)
        raise RowError(f"'completion' holds {shorten(roles)[1:-1]}; it must be the assistant's reply alone")
    return Exchange([user_message(prompt)] if isinstance(prompt, str) else prompt, (Answer(completion),))
