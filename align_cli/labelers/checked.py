"""What labelers say, as it has to be: one of a kind that somebody else wrote may say anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from align_cli.errors import LabelerError, counted


def checked_scores(name: str, said: Sequence[float | None], num_completions: int) -> list[float | None]:
    """A labeler's scores.

    Args:
        name: the labeler's name in the recipe.
        said: what it returned.
        num_completions: that it was asked about.

    Raises:
        LabelerError: unless there is a finite number, or None, for each.
    """
    scores, where = list(said), f"labelers.{name}"
    if len(scores) != num_completions:
        what = f"it gave {counted(len(scores), 'score')} for {counted(num_completions, 'completion')}"
        raise LabelerError(what, where=where, hint="return one for each completion, in their order; None is no score")
    for score in scores:
        if score is not None and not (isinstance(score, Real) and math.isfinite(score)):
            hint = "a score is a finite number, or None"
            raise LabelerError(f"its score of a completion is {str(score)[:80]!r}", where=where, hint=hint)
    return [score if score is None else float(score) for score in scores]


def checked_verdicts(name: str, said: Sequence[float | None], num_pairs: int) -> list[float | None]:
    """A labeler's verdicts, likewise.

    Raises:
        LabelerError: unless there is a probability, or None, for each pair.
    """
    verdicts, where = list(said), f"labelers.{name}"
    if len(verdicts) != num_pairs:
        what = f"it gave {counted(len(verdicts), 'verdict')} on {counted(num_pairs, 'pair')}"
        raise LabelerError(what, where=where, hint="return one for each pair, in their order; None is no verdict")
    for verdict in verdicts:
        if verdict is not None and not (isinstance(verdict, Real) and 0 <= verdict <= 1):
            hint = "a verdict is the probability that the first is better, from 0 to 1, or None"
            raise LabelerError(f"its verdict on a pair is {str(verdict)[:80]!r}", where=where, hint=hint)
    return [verdict if verdict is None else float(verdict) for verdict in verdicts]
