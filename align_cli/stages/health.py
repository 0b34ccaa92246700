"""What a round's labels look like: figures that tell a labeler worth training on from one that is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align_cli.artifacts.records import Completion, Preference
from align_cli.labelers import Labeler
from align_cli.metrics.estimates import estimate
from align_cli.metrics.labels import length_preference, winner_agreement
from align_cli.stages.opinions import Asking, Pair

TIES = ("ties", "without_verdict")


def label_health(pairs: Sequence[Preference], counts: Mapping[str, int]) -> dict[str, Any]:
    """What a labeler's labels of a round look like.

    Args:
        pairs: those that it labelled and that are left.
        counts: what became of that labeler's candidates, and of no other's.

    Returns:
        `tie_share` of all candidates; of the pairs that are left the mean `margin` between chosen and rejected with its
        standard error, in the labeler's unit; how often the longer one won (`longer_won`, `longer_won_pairs`); and of
        labelers that were put together, how often each two name the same winner (`agreement`).
    """
    tied = sum(counts.get(f"{name}_{what}", 0) for name in TIES for what in ("kept", "dropped"))
    candidates = len(pairs) + sum(count for name, count in counts.items() if name.endswith("_dropped"))
    found: dict[str, Any] = {"tie_share": tied / candidates} if candidates else {}
    margins = [margin for pair in pairs if (margin := margin_of(pair)) is not None]
    if margins:
        found["margin"] = estimate(margins)._asdict()
    if (longer := longer_won(pairs)) is not None:
        found |= {"longer_won": longer[0], "longer_won_pairs": longer[1]}
    if among := _agreement_among(pairs):
        found["agreement"] = among
    return found


def longer_won(pairs: Sequence[Preference]) -> tuple[float, int] | None:
    """How often the longer response won, in tokens, and of how many pairs; None where all are of equal length."""
    lengths, others = ([len(ids or ()) for ids in side] for side in _sides(pairs))
    return length_preference([pair.label for pair in pairs], lengths, others)


def scorers_agreement(
    pairs: Sequence[Preference], completions: Sequence[Completion], scorer: Labeler, asking: Asking, most: int
) -> dict[str, float] | None:
    """How often a scorer names the winner that the labels name, on the first so many pairs.

    Args:
        pairs: of the round.
        completions: that they were made of.
        scorer: who is asked; it should not be the labeler.
        asking: how.
        most: pairs that it is asked about.
    """
    by_place: dict[tuple[str, int | None, int | None], Completion] = {
        (one.sampled_by, one.prompt_index, one.sample_index): one for one in completions
    }
    asked: list[Pair] = []
    labels: list[float] = []
    for pair in pairs[:most]:
        sides = (
            by_place.get((pair.chosen_by, pair.prompt_index, pair.chosen_index)),
            by_place.get((pair.rejected_by, pair.prompt_index, pair.rejected_index)),
        )
        if sides[0] is not None and sides[1] is not None:
            asked.append((sides[0], sides[1]))
            labels.append(pair.label)
    if not asked:
        return None
    # `most` may change under a run: what was kept for another number of pairs is in another journal.
    said = asking.verdicts(scorer, asked, f"agreement.{most}.{scorer.name}").values
    found = winner_agreement(labels, said)
    return found._asdict() if found else None


def margin_of(pair: Preference) -> float | None:
    """By how much the chosen response is better, in its labeler's unit: a difference of scores, or 2 p − 1."""
    if pair.chosen_score is not None and pair.rejected_score is not None:
        return pair.chosen_score - pair.rejected_score
    verdict = (pair.verdicts or {}).get(pair.labeler)
    return None if verdict is None else 2 * verdict - 1


def _agreement_among(pairs: Sequence[Preference]) -> dict[str, dict[str, float]]:
    """Of labelers that were put together, how often each two name the same winner."""
    said = [_who_said_what(pair) for pair in pairs]
    names = list(dict.fromkeys(name for one in said for name in one))
    found = {}
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            both = winner_agreement([one.get(name) for one in said], [one.get(other) for one in said])
            if both is not None:
                found[f"{name} and {other}"] = both._asdict()
    return found


def _who_said_what(pair: Preference) -> dict[str, float]:
    """Of labelers that were put together, each one's probability that the chosen response is better, by name."""
    scores, others = pair.chosen_scores or {}, pair.rejected_scores or {}
    won = {
        name: 0.5 if scores[name] == others[name] else float(scores[name] > others[name])
        for name in scores
        if name in others
    }
    return {**won, **{name: verdict for name, verdict in (pair.verdicts or {}).items() if name != pair.labeler}}


def _sides(pairs: Sequence[Preference]) -> tuple[list[list[int] | None], list[list[int] | None]]:
    return [pair.chosen_ids for pair in pairs], [pair.rejected_ids for pair in pairs]
