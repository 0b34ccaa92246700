"""Whether labels are worth training on: ties, margins, and how far length alone, or somebody else, says the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class LengthPreference(NamedTuple):
    """How often the longer response won, and over how many pairs of different length."""

    longer_won: float
    num_pairs: int


class WinnerAgreement(NamedTuple):
    """How often two labelers name the same winner, and over how many pairs on which both name one."""

    agreement: float
    num_pairs: int


def length_preference(
    labels: Sequence[float], lengths: Sequence[float], other_lengths: Sequence[float]
) -> LengthPreference | None:
    """How often the longer response of a pair won.

        longer won = Σ_i (p_i where the first is longer, 1 − p_i where the second is) / #{pairs of different length}

    A labeler whom length alone predicts, with a value near 1 or near 0, teaches length.

    Args:
        labels: for each pair the probability in [0, 1] that its first response is better.
        lengths: of the first responses, in any unit.
        other_lengths: of the second ones.

    Returns:
        The share in [0, 1], one half where length says nothing; None where all pairs are of equal length.

    Raises:
        ValueError: if the lists differ in length, or a label is no probability.
    """
    _check_probabilities(labels)
    shares = [
        label if length > other else 1.0 - label
        for label, length, other in zip(labels, lengths, other_lengths, strict=True)
        if length != other
    ]
    return LengthPreference(math.fsum(shares) / len(shares), len(shares)) if shares else None


def winner_agreement(labels: Sequence[float | None], others: Sequence[float | None]) -> WinnerAgreement | None:
    """How often two labelers name the same winner of a pair, where both name one.

        agreement = #{(p_i − ½)(q_i − ½) > 0} / #{p_i ≠ ½, q_i ≠ ½}

    Args:
        labels: by one labeler, for each pair the probability in [0, 1] that its first response is better; None where it
            says nothing.
        others: by the other one, likewise.

    Returns:
        The share in [0, 1], one half by chance; None where no pair has two winners.

    Raises:
        ValueError: if the lists differ in length, or a label is no probability.
    """
    both = [
        (one, other)
        for one, other in zip(labels, others, strict=True)
        if one is not None and other is not None and one != 0.5 and other != 0.5
    ]
    _check_probabilities([value for pair in both for value in pair])
    same = sum((one > 0.5) == (other > 0.5) for one, other in both)
    return WinnerAgreement(same / len(both), len(both)) if both else None


def _check_probabilities(labels: Sequence[float]) -> None:
    if not all(0.0 <= label <= 1.0 for label in labels):
        raise ValueError("a label must be at least 0 and at most 1")
