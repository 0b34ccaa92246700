"""What is known of a round's pairs before they are trained on: what the reference says of their responses.

The reference does not change within a round, and often not between rounds: it is asked about a response once. What it
said in rounds that are over is taken from there; the rest it is asked before the round's first step, so that it need
not be in memory during the others. A pair is scored with those that are first used at the same step: its last digits
then do not depend on where a process that was interrupted goes on. Where the exact KL needs what goes into the
reference's head, the reference runs at every use, and says the log-probabilities then.

Shapes: B pairs, S sequences of a collated batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from align_cli.artifacts.checksums import response_digest
from align_cli.artifacts.journal import Journal
from align_cli.models.load import Policy
from align_cli.models.scoring import pair_logps
from align_cli.training.batches import TrainingPair
from align_cli.training.objective import Objective

Key = tuple[int, int]
"""A pair's source and its number there: the same for every use of it in a round."""
Logps = tuple[float, float]
"""log π_ref of a pair's chosen and of its rejected response."""
Score = Callable[[Sequence[TrainingPair]], Mapping[Key, Logps]]
"""Asks the reference about pairs."""

JOURNALLED_TOGETHER = 512
"""Pairs, at least, between two writes of what the reference says: a kill costs no more of them, a round few writes."""


class ScoredPair(NamedTuple):
    """What the reference says of a pair.

    Args:
        chosen: digest of the chosen response behind its prompt.
        rejected: likewise.
        chosen_logp: log π_ref of the chosen response, in nats.
        rejected_logp: likewise.
    """

    chosen: str
    rejected: str
    chosen_logp: float
    rejected_logp: float


@dataclass(frozen=True)
class RoundsReference:
    """The reference of a round, as training asks it.

    Args:
        said: log π_ref of responses by their digests, from rounds that are over.
        journal: keeps what it says now, for a process that takes the place of one that was killed.
        fetch: has its weights in memory; called before it is asked.
        let_go: called before the first step where no term will need it again in the round.
        asks: told how many pairs it is asked about at most, before it is about the first.
        asked: told of so many that it was.
        knows: called when it was asked about all, and was about some.
    """

    said: Mapping[str, float] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
    fetch: Callable[[], object] = lambda: None
    let_go: Callable[[], object] = lambda: None
    asks: Callable[[int], object] = lambda number: None
    asked: Callable[[int], object] = lambda number: None
    knows: Callable[[], object] = lambda: None

    def found(self) -> Iterator[ScoredPair]:
        """The pairs that it was asked about in this round, in the order in which they were first used."""
        return (ScoredPair(*pair) for row in self.journal.rows for pair in row["pairs"])


class ReferenceLogps:
    """log π_ref of a round's pairs.

    Args:
        batches: of the round, those of the steps that are done included.
        objective: says which pairs need them.
    """

    def __init__(self, batches: Sequence[Sequence[TrainingPair]], objective: Objective) -> None:
        self._digests: dict[Key, tuple[str, str]] = {}
        self._logps: dict[str, float] = {}
        self._first_used: list[list[TrainingPair]] = []
        for batch in batches:
            new = {_key(pair): pair for pair in batch if _key(pair) not in self._digests and _needs(objective, pair)}
            self._digests.update({key: _digests(pair) for key, pair in new.items()})
            self._first_used.append(list(new.values()))

    def learn(
        self,
        score: Score,
        reference: RoundsReference,
        agreed: Callable[[dict[str, float]], dict[str, float]] = lambda known: known,
    ) -> None:
        """Find them out: what is not known yet, the reference is asked, and that goes to its journal.

        Args:
            score: asks it.
            reference: what it said before, and where that is kept.
            agreed: of several processes, who then ask for the same, what all take as known.
        """
        self._logps = {
            one: reference.said[one] for both in self._digests.values() for one in both if one in reference.said
        }
        for pair in reference.found():
            self._take(pair)
        self._logps = agreed(self._logps)
        found: list[ScoredPair] = []
        if number := sum(len(self._unknown(pairs)) for pairs in self._first_used):
            reference.asks(number)
        for pairs in self._first_used:
            if unknown := self._unknown(pairs):
                reference.fetch()
                logps = score(unknown)
                reference.asked(len(unknown))
                scored = [ScoredPair(*self._digests[key], *logps[key]) for key in map(_key, unknown)]
                found += scored
                for pair in scored:
                    self._take(pair)
            if len(found) >= JOURNALLED_TOGETHER:
                reference.journal.append([{"pairs": found}])
                found = []
        if found:
            reference.journal.append([{"pairs": found}])
        if number:
            reference.knows()

    def of(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(S,) of every sequence of a collated batch, in its order; 0 for those that need none."""
        digests = (self._digests.get(key) for key in keys_of(batch))
        logps_B2 = torch.tensor([[self._logps[one] for one in both] if both else [0.0, 0.0] for both in digests])
        others = len(batch["pair_of"]) - logps_B2.numel()
        return torch.cat([logps_B2.T.flatten(), torch.zeros(others)]).to(batch["label"].device)

    def _take(self, pair: ScoredPair) -> None:
        """A response that two pairs share is what was said of it first."""
        self._logps.setdefault(pair.chosen, pair.chosen_logp)
        self._logps.setdefault(pair.rejected, pair.rejected_logp)

    def _unknown(self, pairs: Sequence[TrainingPair]) -> list[TrainingPair]:
        """As few of the pairs as hold every response that is not known."""
        unknown, known = [], set[str]()
        for pair in pairs:
            new = [one for one in self._digests[_key(pair)] if one not in self._logps and one not in known]
            if new:
                unknown.append(pair)
                known.update(new)
        return unknown


def with_initial_logps(
    batches: Sequence[Sequence[TrainingPair]], initial: Policy, pairs_per_pass: int
) -> list[list[TrainingPair]]:
    """A round's batches, whose pairs know what the initial policy says of their two responses.

    It is asked about each pair once, in the order in which they are first used: what it says does not depend on the
    step at which a process that was interrupted goes on.

    Args:
        batches: of the round.
        initial: the initial policy, beside policy and reference.
        pairs_per_pass: in a forward pass of it.
    """
    pairs = list({_key(pair): pair for batch in batches for pair in batch}.values())
    passes = (pairs[start : start + pairs_per_pass] for start in range(0, len(pairs), pairs_per_pass))
    logps = dict(zip(map(_key, pairs), (both for part in passes for both in pair_logps(initial, part)), strict=True))
    return [[replace(pair, initial_logps=logps[_key(pair)]) for pair in batch] for batch in batches]


def keys_of(batch: Mapping[str, torch.Tensor]) -> list[Key]:
    """The keys of a collated batch's pairs."""
    return list(zip(batch["source"].tolist(), batch["pair_id"].tolist(), strict=True))


def _key(pair: TrainingPair) -> Key:
    return pair.source, pair.pair_id


def _digests(pair: TrainingPair) -> tuple[str, str]:
    return response_digest(pair.prompt_ids, pair.chosen_ids), response_digest(pair.prompt_ids, pair.rejected_ids)


def _needs(objective: Objective, pair: TrainingPair) -> bool:
    """Whether a response of the pair is compared with the reference, and carries no KL, which tells it too."""
    if not objective.needs_ratios:
        return False
    from_policy = objective.sources[pair.source].policy_responses
    carries = [objective.kl_on_all or (from_policy and own) for own in pair.of_policy]
    return not (objective.kl_coefficient and all(carries))
