"""`question`, with `answer` where there is one: GSM8K and other lists of questions.

And model solutions marked as right or wrong, as GSM8K's: pairs of a right one and a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align_cli.data.faults import RowError, describe, text_of
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


class Question(Format):
    name = "question and answer"
    fields = "`question`; for demonstrations also `answer` (GSM8K)"
    gives = (DEMONSTRATIONS, PROMPTS)
    example = r"""{"question":
  "Ann has 2 figs and eats 1. How many are left?",
 "answer": "2 - 1 = <<2-1=1>>1\n#### 1"}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "question") and (wanted == PROMPTS or holds(row, "answer"))

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        answers = [] if wanted == PROMPTS else [Answer(text_of(row["answer"], "answer"))]
        yield Exchange(text_of(row["question"], "question"), answers).with_system(row.get("system"))


class MarkedSolutions(Format):
    name = "marked solutions"
    fields = "`question`, and objects with `solution` and `is_correct`, one a model"
    example = """{"question": "Ann has 2 figs and eats 1. How many are left?",
 "small": {"solution": "2 + 1 = 3", "is_correct": false},
 "large": {"solution": "2 - 1 = 1", "is_correct": true}}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "question") and bool(_solutions(row))

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        answers = []
        for name, solution in _solutions(row).items():
            is_correct = solution["is_correct"]
            if not isinstance(is_correct, bool):
                raise RowError(f"'{name}.is_correct' is {describe(is_correct)}; it must be true or false")
            text = text_of(solution["solution"], f"{name}.solution")
            answers.append(Answer(text, float(is_correct), is_wrong=not is_correct))
        yield Exchange(text_of(row["question"], "question"), answers)


def _solutions(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: value for name, value in row.items() if isinstance(value, dict) and holds(value, "solution", "is_correct")
    }
