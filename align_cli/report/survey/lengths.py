"""How long prompts and answers are, and what limits of them would leave."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from align_cli.report.survey.source import PROMPT

PERCENTILES = (5, 25, 50, 75, 95, 99)
WITHIN = (90, 95, 99, 100)


class Lengths(NamedTuple):
    """How long something is, over all rows.

    Args:
        mean: of all.
        percentiles: by percent.
        longest: the longest one.
        histogram: how many are at most so long, by powers of two; each counts those that the one before does not.
    """

    mean: float
    percentiles: dict[int, int]
    longest: int
    histogram: dict[int, int]


class Within(NamedTuple):
    """What a pair of limits would leave.

    Args:
        percent: of the rows, each limit alone leaves so many.
        max_prompt_tokens: the longest prompt of those.
        max_completion_tokens: the longest answer of those; 0 where there are no answers.
        rows: how many are within both.
        longest: the longest of these, prompt and longer answer together.
    """

    percent: int
    max_prompt_tokens: int
    max_completion_tokens: int
    rows: int
    longest: int


def limits_that_leave(readable: Sequence[Mapping[str, Sequence[Any]]]) -> Iterator[Within]:
    """Limits that leave most rows, and what they leave: from the tightest to none."""
    sizes = [(len(tokens[PROMPT]), total_length(tokens) - len(tokens[PROMPT])) for tokens in readable]
    prompts, answers = (sorted(size[part] for size in sizes) for part in (0, 1))
    seen: set[tuple[int, int]] = set()
    for percent in WITHIN if sizes else ():
        limits = _percentile(prompts, percent), _percentile(answers, percent)
        if limits not in seen:
            seen.add(limits)
            left = [prompt + answer for prompt, answer in sizes if prompt <= limits[0] and answer <= limits[1]]
            yield Within(percent, limits[0], limits[1], len(left), max(left))


def total_length(tokens: Mapping[str, Sequence[Any]]) -> int:
    """Of a row: its prompt with its longer answer."""
    return len(tokens[PROMPT]) + max((len(tokens[name]) for name in tokens if name != PROMPT), default=0)


def lengths_of(counts: Sequence[int]) -> Lengths:
    """The figures of some lengths; those of nothing are 0."""
    ranked = sorted(counts) or [0]
    percentiles = {percent: _percentile(ranked, percent) for percent in PERCENTILES}
    bins = Counter(1 << max(count - 1, 0).bit_length() for count in counts)
    smallest, largest = min(bins, default=1), max(bins, default=1)
    edges = [1 << power for power in range(smallest.bit_length() - 1, largest.bit_length())]
    return Lengths(sum(ranked) / len(ranked), percentiles, ranked[-1], {edge: bins[edge] for edge in edges})


def _percentile(ranked: Sequence[int], percent: int) -> int:
    """The smallest of some numbers, from the lowest on, that so many percent of them do not exceed."""
    return ranked[math.ceil(percent / 100 * len(ranked)) - 1]
