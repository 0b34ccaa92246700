"""What a reward model is worth on pairs, beside what their lengths alone are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from align_cli.stages.reward_pairs import RewardPair


class Measured(NamedTuple):
    """What a reward model is worth on some pairs; see `RewardReport`."""

    figures: dict[str, float | int]
    reliability: list[dict[str, float | int]]


def measure(margins: Sequence[float], pairs: Sequence[RewardPair], seed: int) -> Measured:
    """What margins are worth on labelled pairs, beside what their lengths alone are.

    Args:
        margins: r(chosen) − r(rejected) of each pair.
        pairs: which they are of.
        seed: of the bootstrap.
    """
    from align_cli.metrics.calibration import calibration, grouped_interval, log_loss, outcomes_of

    labels, groups = [pair.label for pair in pairs], [pair.group for pair in pairs]
    longer = [float(chosen - rejected) for chosen, rejected in (pair.num_characters for pair in pairs)]
    right, right_by_length = outcomes_of(margins, labels), outcomes_of(longer, labels)
    low, high = grouped_interval(right, groups, seed=seed)
    length_low, length_high = grouped_interval(right_by_length, groups, seed=seed)
    with_length = [margin * length for margin, length in zip(margins, longer, strict=True)]
    agreement = outcomes_of(with_length, [1.0] * len(pairs))
    calibrated, count = calibration(margins, labels), len(pairs)
    figures = {
        "num_pairs": count,
        "accuracy": sum(right) / count,
        "low": low,
        "high": high,
        "length_accuracy": sum(right_by_length) / count,
        "length_low": length_low,
        "length_high": length_high,
        "length_agreement": sum(agreement) / count,
        "log_loss": log_loss(margins, labels),
        "calibration_error": calibrated.error,
        "margin": sum(margins) / count,
    }
    return Measured(figures, [one._asdict() for one in calibrated.bins])
