"""What is known of a round's pairs before they are trained on: what the reference says of their responses.

The reference does not change within a round, so it scores a pair once, however often the pair is used. A pair is scored
with those that are first used at the same step: its last digits then do not depend on where a process that was
interrupted goes on. Where the exact KL needs what goes into the reference's head, the reference runs at every use, and
says the log-probabilities then.

Shapes: B pairs, S sequences of a collated batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from align_cli.training.batches import TrainingPair
from align_cli.training.objective import Objective

Key = tuple[int, int]
"""A pair's source and its number there: the same for every use of it in a round."""
Logps = tuple[float, float]
"""log π_ref of a pair's chosen and of its rejected response."""


class ReferenceLogps:
    """log π_ref of a round's pairs.

    Args:
        batches: of the round, those of the steps that are done included.
        objective: says which pairs need them.
        score: asks the reference about pairs.
    """

    def __init__(
        self,
        batches: Sequence[Sequence[TrainingPair]],
        objective: Objective,
        score: Callable[[Sequence[TrainingPair]], Mapping[Key, Logps]],
    ) -> None:
        self._score = score
        self._found: dict[Key, Logps] = {}
        self._first_used: dict[Key, int] = {}
        self._pairs: list[list[TrainingPair]] = []
        for step, batch in enumerate(batches):
            new = {_key(pair): pair for pair in batch if _key(pair) not in self._first_used and _needs(objective, pair)}
            self._first_used.update(dict.fromkeys(new, step))
            self._pairs.append(list(new.values()))

    def of(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(S,) of every sequence of a collated batch, in its order; 0 for those that need none."""
        keys = keys_of(batch)
        for step in sorted({self._first_used[key] for key in keys if key in self._first_used}):
            if self._pairs[step]:
                self._found.update(self._score(self._pairs[step]))
                self._pairs[step] = []
        logps_B2 = torch.tensor([self._found.get(key, (0.0, 0.0)) for key in keys])
        others = len(batch["pair_of"]) - logps_B2.numel()
        return torch.cat([logps_B2.T.flatten(), torch.zeros(others)]).to(batch["label"].device)


def keys_of(batch: Mapping[str, torch.Tensor]) -> list[Key]:
    """The keys of a collated batch's pairs."""
    return list(zip(batch["source"].tolist(), batch["pair_id"].tolist(), strict=True))


def _key(pair: TrainingPair) -> Key:
    return pair.source, pair.pair_id


def _needs(objective: Objective, pair: TrainingPair) -> bool:
    """Whether a response of the pair is compared with the reference, and carries no KL, which tells it too."""
    if not objective.needs_ratios:
        return False
    from_policy = objective.sources[pair.source].policy_responses
    carries = [objective.kl_on_all or (from_policy and own) for own in pair.of_policy]
    return not (objective.kl_coefficient and all(carries))
