"""`turns`: questions of a benchmark, turn by turn: MT-bench, Vicuna-bench, Arena-Hard. The first turn is the prompt.

And the files beside them that hold answers without their questions, which are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align_cli.data.faults import RowError, describe, text_of
from align_cli.data.formats.base import PROMPTS, Choices, Dropped, Exchange, Format, Wanted, at, holds
from align_cli.data.messages import user_message


class Turns(Format):
    name = "benchmark questions"
    fields = "`turns`, a list of what the user says, each text or an object with `content`"
    gives = (PROMPTS,)
    example = """{"question_id": 81,
 "category": "writing",
 "turns": ["Write a haiku.", "Now without nature."]}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "turns")

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        turns = row["turns"]
        if not isinstance(turns, list) or not turns:
            raise RowError(f"'turns' is {describe(turns)}; it must be a list with at least one turn of the user")
        first, name = turns[0], "turns[0]"
        if isinstance(first, dict):
            first, name = at(first, "content"), "turns[0].content"
        yield Exchange([user_message(text_of(first, name))]).with_system(row.get("system"))


class BenchmarkAnswers(Format):
    name = "benchmark answers"
    fields = "`question_id`, `model_id` and `choices`"
    is_refused = True
    example = """{"question_id": 101,
 "model_id": "some-model",
 "choices": [{"index": 0, "turns": ["It is second place."]}]}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "question_id", "model_id", "choices")

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        raise RowError(
            "these are a model's answers to a benchmark, and their questions are not beside them",
            "the prompts stand in the benchmark's question.jsonl",
        )
