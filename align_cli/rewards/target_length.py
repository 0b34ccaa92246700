"""The reward of a length: a plateau with slopes, or a tent, in words or characters.

n < low           max(0, 1 − (low − n) / below)
low ≤ n ≤ high    1
n > high          max(0, 1 − (n − high) / above)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from align_cli.errors import LabelerError


class TargetLength:
    """From 0 to 1, by the formula above: 1 for the lengths that are wanted, less the farther away.

    Args:
        low: the shortest length that is wanted, at least 0.
        high: the longest; left out, `low` itself, which is a tent.
        below: how much shorter than `low` scores nothing, above 0; left out, `low`, so that no text scores nothing.
        above: how much longer than `high` scores nothing, above 0; left out, `high`, so that twice as much does.
        unit: `words`, what white space separates, or `characters`.

    Raises:
        LabelerError: if a number is out of range.
    """

    def __init__(
        self,
        low: float,
        high: float | None = None,
        below: float | None = None,
        above: float | None = None,
        unit: Literal["words", "characters"] = "words",
    ) -> None:
        self._low, self._high = low, low if high is None else high
        self._below, self._above = below if below is not None else low or 1, above if above is not None else self._high
        self._unit = unit
        if not (0 <= self._low <= self._high and self._high > 0 and self._below > 0 and self._above > 0):
            what = f"low {low}, high {high}, below {below} and above {above} are no lengths"
            raise LabelerError(what, hint="low is at least 0 and at most high; below and above are above 0")
        if unit not in ("words", "characters"):
            raise LabelerError(f"unit is {unit!r}", hint="it is words or characters")

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        return [self._score(completion) for completion in completions]

    def _score(self, text: str) -> float:
        length = len(text.split()) if self._unit == "words" else len(text)
        short, long = (self._low - length) / self._below, (length - self._high) / self._above
        return max(0.0, 1.0 - max(short, long, 0.0))
