"""`instruction`, with `input` and `output` or without: Alpaca's rows, in its template; AlpacaEval's, without one."""

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
from align_cli.data.templates import instruction_prompt, instruction_turns


class Alpaca(Format):
    name = "Alpaca"
    fields = "`instruction`, with `input` or without; for demonstrations also `output`"
    gives = (DEMONSTRATIONS, PROMPTS)
    example = """{"instruction": "Translate to French.",
 "input": "blue",
 "output": "bleu"}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "instruction") and (wanted == PROMPTS or holds(row, "output"))

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        answers = [] if wanted == PROMPTS else [Answer(text_of(row["output"], "output"))]
        yield Exchange(instruction_prompt(row), answers, turns=instruction_turns(row)).with_system(row.get("system"))


class AlpacaEval(Format):
    name = "AlpacaEval"
    fields = "`instruction`, `output` and `generator`"
    gives = (DEMONSTRATIONS, PROMPTS)
    example = """{"instruction": "Who made Berlin?", "dataset": "helpful_base",
 "output": "Many people.",
 "generator": "some-model"}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "instruction", "output", "generator") and not row.get("input")

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        yield Exchange(text_of(row["instruction"], "instruction"), [Answer(text_of(row["output"], "output"))])
