"""FineGrainedRLHF's feedback: four predictions to a question about passages, compared two by two (arXiv:2306.01693).

`preference` holds six numbers: 1 where the first of two is better, 2 where the second is, 0 for a tie. Which two each
is about is not written in the file. The order taken here, (1,2), (1,3), (1,4), (2,3), (2,4), (3,4), contradicts itself
(a over b, b over c, c over a) in 22 of 500 rows of the development set; read backwards it is the same with other names,
and every other order contradicts itself in 161 or more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from align_cli.data.faults import RowError, describe, text_of
from align_cli.data.formats.base import Answer, Choices, Dropped, Exchange, Format, Verdict, Wanted, at, holds

NAMES = [f"prediction {number}" for number in range(1, 5)]
ORDER = list(combinations(range(len(NAMES)), 2))
TIE, FIRST, SECOND = 0, 1, 2


class FineGrained(Format):
    name = "FineGrainedRLHF"
    fields = "`question`, `passages`, `prediction 1` to `prediction 4`, and `preference`, a list of six"
    example = """{"question": "When?", "passages": [["Bloom", "It came out in May."]], "prediction 1": "In May.",
 "prediction 2": "May", "prediction 3": "Soon.", "prediction 4": "No.",
 "preference": [0, 1, 1, 1, 1, 1]}"""

    def recognises(self, row: Mapping[str, Any], wanted: Wanted) -> bool:
        return holds(row, "question", "passages", "preference", *NAMES)

    def exchanges(self, row: dict[str, Any], wanted: Wanted, choices: Choices) -> Iterator[Exchange | Dropped]:
        preference = row["preference"]
        if not isinstance(preference, list) or len(preference) != len(ORDER):
            raise RowError(f"'preference' is {describe(preference)}; it must be a list of {len(ORDER)} numbers")
        answers = [Answer(text_of(row[name], name)) for name in NAMES]
        yield Exchange(
            _prompt(row), answers, [_verdict(*two, better) for two, better in zip(ORDER, preference, strict=True)]
        )


def _verdict(first: int, second: int, better: Any) -> Verdict:
    if better == TIE:
        return Verdict(first, second, 0.5)
    if better not in (FIRST, SECOND):
        raise RowError(f"'preference' holds {describe(better)}; each number must be 0, 1 or 2")
    return Verdict(first, second) if better == FIRST else Verdict(second, first)


def _prompt(row: dict[str, Any]) -> str:
    """The passages, each with its title above it, and the question below them."""
    passages = []
    for index, passage in enumerate(row["passages"] if isinstance(row["passages"], list) else []):
        if not isinstance(passage, list) or not passage:
            raise RowError(f"'passages[{index}]' is {describe(passage)}; it must be a list of a title and sentences")
        title, *sentences = (text_of(sentence, f"passages[{index}]") for sentence in passage)
        passages.append(f"{title}\n{' '.join(sentences).removeprefix(title).strip()}")
    return "\n\n".join([*passages, text_of(at(row, "question"), "question")])
