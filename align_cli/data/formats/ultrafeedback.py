"""UltraFeedback: an instruction with some completions, each judged in several ways (arXiv:2310.01377).

What is compared is `data.criterion`: one of the aspects that a judge rated (`helpfulness`, `honesty`,
`instruction_following`, `truthfulness`), `overall_score` or `fine-grained_score`. A completion without that rating, as
where the judge wrote N/A, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align_cli.data.faults import RowError, describe, text_of
from align_cli.data.formats.base import (
    PROMPTS,
    Answer,
    Choices,
    Dropped,
    Exchange,
    Format,
    Wanted,
    at,
    chosen_criterion,
    holds,
    number_of,
)

TOTALS = ("overall_score", "fine-grained_score")
NOT_RATED = ("", "N/A")


class UltraFeedback(Format):
    name = "UltraFeedback"
    fields = "`instruction`, and `completions`, a list of objects with `response` and `annotations`"
    example = """{"instruction": "Name a colour.", "completions": [
 {"response": "Blue.", "annotations": {"helpfulness": {"Rating": "5"}}},
 {"response": "No.", "annotations": {"helpfulness": {"Rating": "1"}}}]}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        completions = row.get("completions")
        if not holds(row, "instruction") or not isinstance(completions, list):
            return False
        return all(isinstance(one, dict) and holds(one, "response", "annotations") for one in completions)

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        answers = []
        for index, completion in enumerate([] if wanted == PROMPTS else row["completions"]):
            name = f"completions[{index}]"
            ratings = _ratings(completion, name)
            score = ratings[chosen_criterion(ratings, choices)]
            if score not in NOT_RATED:
                response = text_of(completion["response"], f"{name}.response")
                answers.append(Answer(response, number_of(score, f"{name}: {choices.criterion}")))
        yield Exchange(text_of(row["instruction"], "instruction"), answers)


def _ratings(completion: dict[str, Any], name: str) -> dict[str, Any]:
    annotations = completion["annotations"]
    if not isinstance(annotations, dict):
        raise RowError(f"'{name}.annotations' is {describe(annotations)}; it must be an object with ratings")
    aspects = {aspect: at(rated, "Rating") for aspect, rated in sorted(annotations.items()) if isinstance(rated, dict)}
    found = {**aspects, **{total: completion[total] for total in TOTALS if holds(completion, total)}}
    if not found:
        raise RowError(f"{name!r} holds no rating", 'an aspect looks like "helpfulness": {"Rating": "5"}')
    return found
