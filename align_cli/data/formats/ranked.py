"""A prompt with a list of answers that are scored or ranked: Nectar's rows, and lists of one's own.

The prompt is `prompt`, `instruction` or `question`; the list is `completions`, `responses`, `answers` or `candidates`.
Each answer is an object with its text and its `score`, `reward`, `rating` or `rank`; or a text, and the numbers are a
list of their own beside them: `scores`, `rewards`, `ratings` or `ranks`. The highest score is the best; of ranks the
lowest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align_cli.data.faults import RowError, describe, list_keys
from align_cli.data.formats.base import Answer, Choices, Dropped, Exchange, Format, Wanted, holds, number_of
from align_cli.data.messages import Text, assistant_message, text_or_messages, user_message

PROMPT_KEYS = ("prompt", "instruction", "question")
LIST_KEYS = ("completions", "responses", "answers", "candidates")
TEXT_KEYS = ("text", "response", "completion", "answer", "content", "output")
NUMBER_KEYS = ("score", "reward", "rating", "rank")
RANK = "rank"


class Ranked(Format):
    name = "scored or ranked list"
    fields = (
        "`prompt`, `instruction` or `question`; `completions`, `responses`, `answers` or `candidates`, a list; with "
        "`score`, `reward`, `rating` or `rank` in each, or `scores`, `rewards`, `ratings` or `ranks` beside it"
    )
    example = """{"prompt": "Name a colour.",
 "responses": ["Blue.", "No.", "Red"],
 "scores": [0.9, 0.1, 0.8]}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        answers = next((row[name] for name in LIST_KEYS if isinstance(row.get(name), list)), None)
        if answers is None or not any(holds(row, name) for name in PROMPT_KEYS):
            return False
        numbered_beside = any(holds(row, f"{name}s") for name in NUMBER_KEYS)
        return numbered_beside or any(
            isinstance(answer, dict) and any(holds(answer, name) for name in NUMBER_KEYS) for answer in answers
        )

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        key = next(name for name in PROMPT_KEYS if holds(row, name))
        name = next(name for name in LIST_KEYS if isinstance(row.get(name), list))
        prompt = text_or_messages(row[key], key)
        beside = next((f"{number}s" for number in NUMBER_KEYS if holds(row, f"{number}s")), None)
        if beside is None:
            answers = [_answer(value, f"{name}[{index}]") for index, value in enumerate(row[name])]
        else:
            answers = _with_numbers(row[name], name, row[beside], beside)
        if not all(isinstance(text, str) for text in (prompt, *(answer.text for answer in answers))):
            prompt = [user_message(prompt)] if isinstance(prompt, str) else prompt
            answers = [
                answer._replace(text=[assistant_message(answer.text)]) if isinstance(answer.text, str) else answer
                for answer in answers
            ]
        yield Exchange(prompt, answers).with_system(row.get("system"))


def _answer(value: Any, name: str) -> Answer:
    if not isinstance(value, dict):
        raise RowError(f"{name!r} is {describe(value)}; it must be an object with a text and a number")
    number = next((key for key in NUMBER_KEYS if holds(value, key)), None)
    if number is None:
        raise RowError(f"{name!r} has none of {list_keys(NUMBER_KEYS)}; found {list_keys(value)}")
    return Answer(_text(value, name), _score(value[number], number, f"{name}.{number}"))


def _with_numbers(values: list[Any], name: str, numbers: Any, beside: str) -> list[Answer]:
    if not isinstance(numbers, list) or len(numbers) != len(values):
        raise RowError(f"{beside!r} is {describe(numbers)}; it must be a list of {len(values)}, as {name!r} is")
    return [
        Answer(_text(value, f"{name}[{index}]"), _score(number, beside.removesuffix("s"), f"{beside}[{index}]"))
        for index, (value, number) in enumerate(zip(values, numbers, strict=True))
    ]


def _text(value: Any, name: str) -> Text:
    if not isinstance(value, dict) or holds(value, "role"):
        return text_or_messages(value, name)
    key = next((key for key in TEXT_KEYS if holds(value, key)), None)
    if key is None:
        raise RowError(f"{name!r} has none of {list_keys(TEXT_KEYS)}; found {list_keys(value)}")
    return text_or_messages(value[key], f"{name}.{key}")


def _score(value: Any, kind: str, name: str) -> float:
    number = number_of(value, name)
    return -number if kind == RANK else number
