"""One answer a row, with a label or with scores: pairs are made of the rows that share a prompt.

KTO           `label` is true for a good answer and false for a bad one; `prompt` and `completion`, or a whole
              conversation. As demonstrations, the good ones alone (arXiv:2402.01306)
HelpSteer     `prompt` and `response` with several scores, of which data.criterion names the one that decides
              (arXiv:2311.09528)
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from align_cli.data.faults import RowError
from align_cli.data.files import SourceRow
from align_cli.data.formats.base import (
    PAIRS,
    PROMPTS,
    Answer,
    Choices,
    Dropped,
    Exchange,
    Format,
    Found,
    Wanted,
    chosen_criterion,
    holds,
    number_of,
)
from align_cli.data.formats.conversation import NAMES as CONVERSATIONS
from align_cli.data.formats.conversation import exchange_of_conversation
from align_cli.data.formats.prompt import exchange_of
from align_cli.data.messages import text_or_messages
from align_cli.errors import Fault

SCORES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


class SingleAnswers(Format):
    """What rows of one answer have in common."""

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        yield self.exchange(row, wanted, choices)

    @abstractmethod
    def exchange(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Exchange:
        """A prompt with one answer."""

    def spans_rows(self, wanted: Wanted) -> bool:
        return wanted == PAIRS

    def of_all(self, rows: Sequence[SourceRow], wanted: Wanted, choices: Choices) -> Iterator[Found | Fault]:
        """The rows that share a prompt as one exchange, at the place of the first of them."""
        together: dict[str, Found] = {}
        for where, fields in rows:
            try:
                exchange = self.exchange(fields, wanted, choices)
            except RowError as error:
                yield error.at(where)
                continue
            key = json.dumps([exchange.prompt, fields.get("tools")], sort_keys=True)
            begun = together.get(key)
            if begun is not None:
                assert isinstance(begun.said, Exchange)
                exchange = replace(begun.said, answers=[*begun.said.answers, *exchange.answers])
                together[key] = begun._replace(said=exchange)
            else:
                together[key] = Found(where, fields, self.name, exchange)
        yield from together.values()


class Kto(SingleAnswers):
    name = "KTO"
    fields = "`label`, true or false, beside `prompt` and `completion`, or `messages` or `conversations`"
    example = """{"prompt": "Name a colour.", "completion": "Blue.", "label": true}
{"prompt": "Name a colour.", "completion": "No.", "label": false}
{"prompt": "Name a beast.", "completion": "A cat.", "label": true}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        has_answer = holds(row, "prompt", "completion") or any(holds(row, name) for name in CONVERSATIONS)
        return has_answer and wanted != PROMPTS and row.get("label") in (0, 1)

    def exchange(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Exchange:
        name = next((name for name in CONVERSATIONS if holds(row, name)), None)
        if name is not None:
            exchange = exchange_of_conversation(row[name], name)
        else:
            exchange = exchange_of(*(text_or_messages(row[key], key) for key in ("prompt", "completion")))
        is_good = bool(row["label"])
        answers = [Answer(answer.text, float(is_good), is_wrong=not is_good) for answer in exchange.answers]
        return replace(exchange, answers=answers).with_system(row.get("system"))


class HelpSteer(SingleAnswers):
    name = "HelpSteer"
    fields = f"`prompt` and `response`, with one or more of {', '.join(f'`{score}`' for score in SCORES)}"
    example = """{"prompt": "Name a colour.", "response": "Blue.", "helpfulness": 4, "verbosity": 0}
{"prompt": "Name a colour.", "response": "No.", "helpfulness": 0, "verbosity": 0}
{"prompt": "Name a beast.", "response": "A cat.", "helpfulness": 3, "verbosity": 1}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "prompt", "response") and any(holds(row, score) for score in SCORES)

    def exchange(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Exchange:
        exchange = exchange_of(*(text_or_messages(row[key], key) for key in ("prompt", "response")))
        if wanted != PAIRS:
            return exchange
        scores = {score: row[score] for score in SCORES if holds(row, score)}
        criterion = chosen_criterion(scores, choices)
        score = number_of(scores[criterion], criterion)
        return replace(exchange, answers=[answer._replace(score=score) for answer in exchange.answers])
