"""`text`, or the lines of a text file: each a prompt, or a text to learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align_cli.data.faults import text_of
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


class PlainText(Format):
    name = "text"
    fields = "`text`; or a line of a `.txt` file"
    gives = (PROMPTS, DEMONSTRATIONS)
    example = """{"text": "one prompt"}
{"text": "another"}
{"text": "a third"}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "text")

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        text = text_of(row["text"], "text")
        exchange = Exchange(text) if wanted == PROMPTS else Exchange("", (Answer(text),))
        yield exchange.with_system(row.get("system"))
