"""What the policy's implicit reward says of held-out offline pairs.

The pairs are the same in every round, and often the reference too: what it said of them in rounds that are over is
taken from there. The policy is asked about all of them; where it is the reference itself, nobody has to be asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from align_cli.artifacts.checksums import response_digest
from align_cli.artifacts.records import PairLogps, Preference
from align_cli.metrics.preference import pair_accuracy
from align_cli.models.load import Policy
from align_cli.recipe import Recipe
from align_cli.stages.base import NoProgress, Progress
from align_cli.stages.opinions import Asking, kept_values, num_pair_tokens


@dataclass(frozen=True)
class Reference:
    """What held-out pairs are measured against.

    Args:
        policy: its model.
        digest: names it among those of other rounds.
        said: log π_ref of responses by their digests, from rounds that are over.
    """

    policy: Policy
    digest: str = ""
    said: Mapping[str, float] = field(default_factory=dict)


class HeldOut(NamedTuple):
    """What is found of held-out pairs.

    Args:
        figures: accuracy and mean margin β·h; None without pairs.
        asked: what the reference said of pairs that it had not been asked about before.
    """

    figures: dict[str, float | int] | None = None
    asked: Sequence[PairLogps] = ()


def measure_pairs(
    policy: Policy, reference: Reference, pairs: Sequence[Preference], recipe: Recipe, asking: Asking
) -> HeldOut:
    """Accuracy and margin β·h of the implicit reward on held-out pairs; those labelled one half say nothing.

    Args:
        policy: what is evaluated.
        reference: what its log-ratios are taken against.
        pairs: tokenised.
        recipe: β and batch size.
        asking: where the work is kept, and who is told how far it is.
    """
    from align_cli.models.scoring import reward_margins

    pairs = [pair for pair in pairs if pair.label != 0.5]
    if not pairs:
        return HeldOut()
    asked: list[PairLogps] = []
    if policy.version == reference.policy.version:
        margins = [0.0] * len(pairs)
        asking.progress.advance(len(pairs))
    else:
        digests = [_digests(pair) for pair in pairs]
        asked = _asked_anew(reference, pairs, digests, recipe, asking)
        known = {**_by_response(asked), **reference.said}
        of_reference = [[known[one] for one in both] for both in digests]
        of_policy = _logps(policy, pairs, recipe, asking, asking.progress, "policy-logps")
        margins = reward_margins(of_policy, of_reference, recipe.method.beta)
    signed = [margin if pair.label > 0.5 else -margin for margin, pair in zip(margins, pairs, strict=True)]
    return HeldOut(pair_accuracy(signed)._asdict(), asked)


def _asked_anew(
    reference: Reference,
    pairs: Sequence[Preference],
    digests: Sequence[tuple[str, str]],
    recipe: Recipe,
    asking: Asking,
) -> list[PairLogps]:
    unknown = [place for place, both in enumerate(digests) if not all(one in reference.said for one in both)]
    if not unknown:
        return []
    asked = [pairs[place] for place in unknown]
    found = _logps(reference.policy, asked, recipe, asking, NoProgress(), "reference-logps")
    return [PairLogps(reference.digest, *digests[place], *both) for place, both in zip(unknown, found, strict=True)]


def _logps(
    model: Policy, pairs: Sequence[Preference], recipe: Recipe, asking: Asking, progress: Progress, name: str
) -> list[tuple[float, float]]:
    from align_cli.models.scoring import pair_logps

    def measure(batch: Sequence[Preference]) -> list[tuple[float, float]]:
        return pair_logps(model, batch)

    with asking.work.journal(name) as journal:
        return kept_values(pairs, recipe.generate.batch_size, measure, progress, journal, num_pair_tokens)


def _by_response(asked: Sequence[PairLogps]) -> dict[str, float]:
    return {pair.chosen: pair.chosen_logp for pair in asked} | {pair.rejected: pair.rejected_logp for pair in asked}


def _digests(pair: Preference) -> tuple[str, str]:
    prompt = pair.prompt_ids or ()
    return response_digest(prompt, pair.chosen_ids or ()), response_digest(prompt, pair.rejected_ids or ())
