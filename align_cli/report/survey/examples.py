"""Rows to look at: at equal steps from the shortest to the longest, with their token borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from align_cli.data.rows import Row
from align_cli.models.text import PolicyText, plain_text
from align_cli.report.survey.lengths import total_length
from align_cli.report.survey.source import PROMPT


class Part(NamedTuple):
    """A piece of an example.

    Args:
        name: `prompt`, `chosen`, `rejected` or `completion`.
        has_loss: whether its tokens are trained on.
        tokens: its text, cut where tokens end; in one piece where no policy reads it.
    """

    name: str
    has_loss: bool
    tokens: list[str]


class Example(NamedTuple):
    """A row as a policy reads it.

    Args:
        where: its place.
        why: why it is shown.
        parts: the prompt, and each answer.
    """

    where: str
    why: str
    parts: list[Part]


def examples_of(
    rows: Sequence[Row],
    read: Sequence[dict[str, list[Any]] | str],
    answers: Sequence[str],
    policy: PolicyText | None,
    number: int,
) -> list[Example]:
    """Rows at equal steps from the shortest to the longest."""
    by_length = sorted((total_length(tokens), place) for place, tokens in enumerate(read) if isinstance(tokens, dict))
    number = min(number, len(by_length))
    steps = [round(step * (len(by_length) - 1) / max(number - 1, 1)) for step in range(number)]
    shown = []
    for step in steps:
        share = step / max(len(by_length) - 1, 1)
        total, place = by_length[step]
        tokens = read[place]
        assert isinstance(tokens, dict)
        why = {0.0: "the shortest", 1.0: "the longest"}.get(share, f"longer than {share:.0%} of the rows")
        parts = [
            Part(name, name != PROMPT, _pieces(rows[place][name], tokens[name], policy)) for name in (PROMPT, *answers)
        ]
        shown.append(Example(rows[place].where, f"{why}, {total} in all", parts))
    return shown


def _pieces(text: Any, ids: Sequence[int], policy: PolicyText | None) -> list[str]:
    if policy is None:
        return [plain_text(text)]
    return [str(policy.tokenizer.decode([token_id])) for token_id in ids]
