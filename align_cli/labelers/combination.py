"""The labeler `combination`: several labelers put together, by a weighted sum of scores, a vote, or agreement.

    sum        Σ w_m (s_m − mean_m) / sd_m, over what is scored together; without `standardize`, Σ w_m s_m
    vote       Σ w_m v_m / Σ w_m, where v_m is a member's verdict in [0, 1]; members that say nothing have no vote
    agreement  the vote where all members say the same, one winner or a tie, else nothing

A member that gives scores votes for the higher one, and one half where they are equal.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from align_cli.artifacts.records import Text
from align_cli.labelers.base import Labeler
from align_cli.recipe.sections.labelers.combination import CombinationLabelerSection

Values = Sequence[float | None]


class Combination(Labeler):
    """Puts together what its members say; the stage asks them, one after the other.

    Args:
        name: the labeler's name in the recipe.
        section: whom, with which weights, and how.
        note: not told anything.
    """

    batch_size = 1

    def __init__(
        self, name: str, section: CombinationLabelerSection, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.name = name
        self.gives_verdicts = section.gives == "verdicts"
        self._section = section

    def __iter__(self) -> Iterator[Labeler]:
        """Its members, in the order of the recipe."""
        return iter(self.members[name] for name in self._section.of)

    def combine(self, said: Mapping[str, Values]) -> list[float | None]:
        """What it says of each item.

        Args:
            said: what each member says of the items, by its name: scores for a sum, else verdicts; all of one length.

        Returns:
            A score for each item, or a probability in [0, 1]; None where it says nothing.
        """
        if self._section.by == "sum":
            said = {name: _standardized(values) for name, values in said.items()} if self._section.standardize else said
            return [self._sum(dict(zip(said, row, strict=True))) for row in zip(*said.values(), strict=True)]
        return [self._vote(dict(zip(said, row, strict=True))) for row in zip(*said.values(), strict=True)]

    def release(self) -> None:
        """Has each member let go."""
        for labeler in self:
            labeler.release()

    def check(self, prompts: Sequence[Text]) -> None:
        """Has each member find out."""
        for labeler in self:
            labeler.check(prompts)

    def _sum(self, scores: Mapping[str, float | None]) -> float | None:
        weighted = [self._section.of[name] * score for name, score in scores.items() if score is not None]
        return math.fsum(weighted) if len(weighted) == len(scores) else None

    def _vote(self, verdicts: Mapping[str, float | None]) -> float | None:
        votes = {name: verdict for name, verdict in verdicts.items() if verdict is not None}
        if self._section.by == "agreement":
            sides = {(verdict > 0.5) - (verdict < 0.5) for verdict in votes.values()}
            if len(votes) < len(verdicts) or len(sides) != 1:
                return None
        weight = math.fsum(self._section.of[name] for name in votes)
        if not weight:
            return None
        return min(math.fsum(self._section.of[name] * verdict for name, verdict in votes.items()) / weight, 1.0)


def _standardized(scores: Values) -> list[float | None]:
    """Scores with a mean of 0 and, unless all are equal, a standard deviation of 1."""
    there = [score for score in scores if score is not None]
    differ = len(set(there)) > 1
    mean, scale = (statistics.fmean(there), statistics.pstdev(there)) if differ else (max(there, default=0.0), 1.0)
    return [None if score is None else (score - mean) / scale for score in scores]
