"""What trackers are told: points on the run's own axis, the optimizer step, which goes on from round to round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from align_cli.artifacts.records import Completion, Evaluation, Text

NUM_SAMPLES = 16
"""Held-out responses that a round's point carries; all are in the run's samples.jsonl."""

STEP_FIGURE, EVALUATION_FIGURE = "train/loss", "evaluation/length"
"""Figures that every point of their kind has: by these it is known which points a tracker has."""


class Sample(NamedTuple):
    """A held-out response as trackers show it.

    Args:
        prompt: its text.
        response: its text.
        score: the first scorer's; None without one.
    """

    prompt: str
    response: str
    score: float | None


class Point(NamedTuple):
    """What is told at once.

    Args:
        step: optimizer steps of the whole run until then.
        figures: finite numbers by name.
        round: the round that it belongs to.
        samples: some responses; of a round's end.
    """

    step: int
    figures: dict[str, float]
    round: int
    samples: tuple[Sample, ...] = ()

    @property
    def place(self) -> int:
        """Its place among all points of a run: a round's end comes after the round's last step."""
        return place_of(self.step, is_end=self.kind == EVALUATION_FIGURE)

    @property
    def kind(self) -> str:
        """The figure that all points of its kind have."""
        return EVALUATION_FIGURE if EVALUATION_FIGURE in self.figures else STEP_FIGURE


def place_of(step: int, *, is_end: bool = False) -> int:
    """The place of a point at this step, which every process finds alike."""
    return 2 * step + is_end


def step_point(round_number: int, step: int, record: Mapping[str, float]) -> Point:
    """An optimizer step's figures, those of each source of pairs among them."""
    figures = {f"train/{name}": value for name, value in record.items() if name != "step"}
    return Point(step, _finite({**figures, "train/round": round_number}), round_number)


def end_point(step: int, evaluation: Evaluation, samples: Sequence[Completion]) -> Point:
    """A round's end: its evaluation, and the first of its held-out responses."""
    figures: dict[str, Any] = {
        "length": evaluation.length["mean"],
        "eos_rate": evaluation.eos_rate,
        "distinct_2": evaluation.distinct_2,
        "kl": evaluation.kl["mean"],
        "kl_standard_error": evaluation.kl["standard_error"],
        "round": evaluation.round,
        **_judged(evaluation.reward, evaluation.against),
    }
    for name, found in (evaluation.other_scorers or {}).items():
        figures |= {f"{name}/{key}": value for key, value in _judged(found["reward"], found["against"]).items()}
    if evaluation.preferences:
        figures |= {f"pairs/{name}": value for name, value in evaluation.preferences.items()}
    named = {f"evaluation/{name}": value for name, value in figures.items()}
    return Point(step, _finite(named), evaluation.round, tuple(map(_sample, samples[:NUM_SAMPLES])))


def _judged(reward: Mapping[str, float] | None, against: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What one scorer found: the mean score, and by opponent both win rates with their intervals."""
    figures = {} if reward is None else {"reward": reward["mean"], "reward_standard_error": reward["standard_error"]}
    return figures | {
        f"{opponent}/{name}": value for opponent, found in against.items() for name, value in found.items()
    }


def _finite(figures: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among these that every tracker can draw."""
    return {name: value for name, value in figures.items() if isinstance(value, int | float) and math.isfinite(value)}


def _sample(one: Completion) -> Sample:
    score = next(iter(one.scores.values()), None) if one.scores else None
    return Sample(_text(one.prompt), _text(one.completion), score)


def _text(text: Text) -> str:
    """A text as it is, a chat message by message."""
    if isinstance(text, str):
        return text
    return "\n\n".join(f"{message.get('role')}: {message.get('content')}" for message in text)
