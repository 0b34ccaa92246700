"""What a labeler says of a round's completions, as pairing asks for it: an order in a draw, and margins of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

from align_cli.artifacts.records import Completion
from align_cli.labelers import Labeler
from align_cli.stages.opinions import Asking, Opinions


class Said(Protocol):
    """What a labeler says of a round's completions."""

    @property
    def opinions(self) -> Opinions:
        """All of it."""
        ...

    def standing(self, one: Completion) -> float | None:
        """By which the responses of a draw are ordered; None where nothing is said of it."""
        ...

    def margin(self, one: Completion, other: Completion) -> float | None:
        """By how much the first is better; None where nothing is said."""
        ...

    def probability(self, margin: float) -> float:
        """That the better one of a pair is better, by the margin between them."""
        ...

    def record(self, chosen: Completion, rejected: Completion) -> dict[str, Any]:
        """Who said what of a pair, as fields of its preference."""
        ...


@dataclass(frozen=True)
class Scored:
    """A score for each completion; the probability of a margin is Bradley and Terry's."""

    opinions: Opinions
    places: dict[int, int]
    temperature: float

    @classmethod
    def ask(
        cls,
        completions: Sequence[Completion],
        labeler: Labeler,
        asking: Asking,
        temperature: float,
    ) -> Scored:
        """Have them scored.

        Args:
            completions: of a round.
            labeler: who gives scores.
            asking: how it is asked.
            temperature: Bradley and Terry's.
        """
        places = {id(one): place for place, one in enumerate(completions)}
        return cls(asking.scores(labeler, completions, "scores"), places, temperature)

    def standing(self, one: Completion) -> float | None:
        return self.opinions.values[self.places[id(one)]]

    def margin(self, one: Completion, other: Completion) -> float | None:
        score, others = self.standing(one), self.standing(other)
        return None if score is None or others is None else score - others

    def probability(self, margin: float) -> float:
        return 1 / (1 + math.exp(-margin / self.temperature))

    def record(self, chosen: Completion, rejected: Completion) -> dict[str, Any]:
        if not self.opinions.members:
            return {}
        sides = {"chosen_scores": self.places[id(chosen)], "rejected_scores": self.places[id(rejected)]}
        said = self.opinions.members
        return {
            name: {one: value for one, values in said.items() if (value := values[place]) is not None}
            for name, place in sides.items()
        }


@dataclass(frozen=True)
class AgainstAll:
    """How often each response is expected to win against its draw's of the policy, itself included with one half.

    It is the mean of what another way of asking says of its pairs, SPPO's P̂(y ≻ π) and the reward of DNO; the
    probability of a margin between two is its sigmoid (Algorithm 1, arXiv:2404.03715).
    """

    said: Said
    win_rates: dict[int, float]

    @classmethod
    def of(cls, said: Said, draws: Sequence[Sequence[Completion]]) -> AgainstAll:
        """The win rates of the responses of each draw of a prompt."""
        return cls(said, {id(one): _win_rate(said, one, draw) for draw in draws for one in draw})

    @property
    def opinions(self) -> Opinions:
        return self.said.opinions

    def standing(self, one: Completion) -> float | None:
        return None if self.said.standing(one) is None else self.win_rates[id(one)]

    def margin(self, one: Completion, other: Completion) -> float | None:
        rate, others = self.standing(one), self.standing(other)
        return None if rate is None or others is None else rate - others

    def probability(self, margin: float) -> float:
        return 1 / (1 + math.exp(-margin))

    def record(self, chosen: Completion, rejected: Completion) -> dict[str, Any]:
        return {
            "chosen_score": self.said.standing(chosen),
            "rejected_score": self.said.standing(rejected),
            **self.said.record(chosen, rejected),
            "chosen_win_rate": self.win_rates[id(chosen)],
            "rejected_win_rate": self.win_rates[id(rejected)],
        }


def _win_rate(said: Said, one: Completion, draw: Sequence[Completion]) -> float:
    """Pairs that nothing is said of are left out."""
    others = (other for other in draw if other is not one and other.sampled_by == "policy")
    margins = [margin for other in others if (margin := said.margin(one, other)) is not None]
    shares = [said.probability(margin) for margin in margins] + [0.5] * (one.sampled_by == "policy" or not margins)
    return math.fsum(shares) / len(shares)


@dataclass(frozen=True)
class Compared:
    """A verdict on each pair of a draw: the probability that its first is better; margins are 2 p − 1."""

    opinions: Opinions
    places: dict[tuple[int, int], int]
    standings: dict[int, float | None]
    name: str

    @classmethod
    def ask(
        cls,
        draws: Sequence[Sequence[Completion]],
        labeler: Labeler,
        asking: Asking,
    ) -> Compared:
        """Have all pairs of each draw compared.

        Also where only the best and the worst are wanted: a place is a share of all pairs, and fewer find the ends by a
        judge alone that never contradicts itself. One that won all its pairs, and one that lost all, would be known
        after 2K − 3 of K (K − 1) / 2 at the least, asked one after the other: 5 of 6 for K = 4.

        Args:
            draws: the responses of each draw of a prompt.
            labeler: any.
            asking: how it is asked.
        """
        pairs = [pair for draw in draws for pair in combinations(draw, 2)]
        opinions = asking.verdicts(labeler, pairs, "verdicts")
        won: dict[int, list[float]] = {id(one): [] for draw in draws for one in draw}
        for (one, other), verdict in zip(pairs, opinions.values, strict=True):
            if verdict is not None:
                won[id(one)].append(verdict)
                won[id(other)].append(1 - verdict)
        standings = {one: math.fsum(shares) / len(shares) if shares else None for one, shares in won.items()}
        places = {(id(one), id(other)): place for place, (one, other) in enumerate(pairs)}
        return cls(opinions, places, standings, labeler.name)

    def standing(self, one: Completion) -> float | None:
        return self.standings[id(one)]

    def margin(self, one: Completion, other: Completion) -> float | None:
        verdict = self._of_pair(self.opinions.values, one, other)
        return None if verdict is None else 2 * verdict - 1

    def probability(self, margin: float) -> float:
        return (1 + margin) / 2

    def record(self, chosen: Completion, rejected: Completion) -> dict[str, Any]:
        said = {self.name: self.opinions.values, **self.opinions.members}
        verdicts = {name: self._of_pair(values, chosen, rejected) for name, values in said.items()}
        given = {name: verdict for name, verdict in verdicts.items() if verdict is not None}
        return {"chosen_score": None, "rejected_score": None, "verdicts": given}

    def _of_pair(self, values: Sequence[float | None], one: Completion, other: Completion) -> float | None:
        place = self.places.get((id(one), id(other)))
        if place is not None:
            return values[place]
        verdict = values[self.places[id(other), id(one)]]
        return None if verdict is None else 1 - verdict
