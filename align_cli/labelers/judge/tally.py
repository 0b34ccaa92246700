"""Counts of what a judge did in a stage, which add up, the figures that they come to, and when they say: stop.

An answer that is found in the file of kept ones counts with what it took when it came: so a stage that was killed has
the figures of one that was not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from align_cli.errors import LabelerError
from align_cli.labelers.judge.spending import cost
from align_cli.recipe.sections.labelers.judge import PriceSection

if TYPE_CHECKING:
    from align_cli.labelers.judge.questions import Answer

FEWEST_ANSWERS = 20
"""Of which a share of unparsable ones says something."""


def mean_of_votes(values: Sequence[float | None]) -> float | None:
    """The mean of what could be read; None where nothing could."""
    said = [value for value in values if value is not None]
    return math.fsum(said) / len(said) if said else None


def counts_of_answers(answers: Iterable[Answer]) -> Counter[str]:
    """What answers took, each of them given once."""
    counts: Counter[str] = Counter()
    for answer in answers:
        counts["answers" if answer.value is not None else "unparsable"] += 1
        counts["calls"] += 1 + answer.retries
        counts["retries"] += answer.retries
        counts["prompt_tokens"] += answer.prompt_tokens
        counts["completion_tokens"] += answer.completion_tokens
    return counts


def counts_of_positions(values: Iterable[float | None]) -> Counter[str]:
    """How often the completion that was shown first won, and the one that was shown second."""
    said = Counter(values)
    return Counter({"first_wins": said[1.0], "second_wins": said[0.0], "ties": said[0.5]})


def counts_of_orders(by_order: Sequence[float | None]) -> Counter[str]:
    """Of a pair's verdicts, one for each order that it was shown in, whether they name different winners."""
    said = [verdict for verdict in by_order if verdict is not None]
    is_both = len(said) == 2
    is_flip = is_both and (said[0] - 0.5) * (said[1] - 0.5) < 0
    return Counter({"pairs_in_both_orders": int(is_both), "order_flips": int(is_flip)})


def unparsable_share(counts: Mapping[str, float]) -> float:
    """Of all answers, the share without a verdict."""
    came = counts.get("answers", 0) + counts.get("unparsable", 0)
    return counts.get("unparsable", 0) / came if came else 0.0


def check_unparsable(counts: Mapping[str, float], most: float, example: str, place: str, longest: str) -> None:
    """Look at the share of answers without a verdict.

    Args:
        counts: of the stage so far.
        most: the largest share that is allowed.
        example: such an answer, in one line; empty where none is known.
        place: the labeler's, as `labelers.ours`.
        longest: the key that bounds an answer's length.

    Raises:
        LabelerError: if the share is larger; shows the example.
    """
    num_came = counts.get("answers", 0) + counts.get("unparsable", 0)
    if num_came < FEWEST_ANSWERS or unparsable_share(counts) <= most:
        return
    what = f"{counts['unparsable']:g} of {num_came:g} answers hold no verdict, more than max_unparsable allows"
    if example:
        what += f" ({most:g}); one of them: {example!r}"
    raise LabelerError(
        what,
        where=f"{place}.max_unparsable",
        hint=f"look at the template: does it say how the verdict is written, and is {longest} enough for it? "
        "What could be read is kept",
    )


def figures_of(counts: Mapping[str, float], price: PriceSection | None) -> dict[str, float]:
    """What a stage's counts come to; shares of nothing are left out."""
    names = ("pairs", "completions", "answers", "calls", "retries", "prompt_tokens", "completion_tokens", "unparsable")
    figures = {name: counts[name] for name in names if name in counts}
    if not figures:
        return {}
    figures["unparsable_share"] = unparsable_share(counts)
    decisive = counts.get("first_wins", 0) + counts.get("second_wins", 0)
    if decisive:
        figures["position_bias"] = counts.get("first_wins", 0) / decisive - 0.5
    if counts.get("ties", 0) + decisive:
        figures["tie_share"] = counts.get("ties", 0) / (counts.get("ties", 0) + decisive)
    if counts.get("pairs_in_both_orders"):
        figures["order_flip_share"] = counts.get("order_flips", 0) / counts["pairs_in_both_orders"]
    if price is not None:
        figures["cost"] = cost(price, counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0))
    return figures
