"""What scorers say of a policy's held-out responses: their scores, and who wins against each opponent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from align_cli.artifacts.records import Completion
from align_cli.errors import LabelerError, counted
from align_cli.labelers import Labeler
from align_cli.metrics.estimates import estimate
from align_cli.metrics.preference import win_rate_of
from align_cli.seeds import derive_seed
from align_cli.stages.opinions import Asking, higher_wins


class Judged(NamedTuple):
    """What a scorer says of a policy.

    Args:
        against: who wins, by opponent, as an evaluation has it.
        figures: what it, and those that it asks, have to say of their work, by name.
        scores: of the policy's responses; None where it gives verdicts.
    """

    against: dict[str, dict[str, float | int | str]]
    figures: dict[str, dict[str, float]]
    scores: list[float | None] | None = None

    @property
    def reward(self) -> dict[str, float] | None:
        """The mean score with its standard error; None where there is no score."""
        scores = [score for score in self.scores or () if score is not None]
        return estimate(scores)._asdict() if scores else None


def judge_responses(
    scorer: Labeler,
    samples: Sequence[Completion],
    opponents: Mapping[str, Sequence[Completion]],
    asking: Asking,
    seed: int,
) -> Judged:
    """A scorer is asked about all responses at once: scores that are standardised are so over all of them.

    An opponent that is there under two names, as the initial policy after the first round, is asked about once.
    """
    journal = f"judged.{scorer.name}"
    versions = {responses[0].policy: responses for responses in opponents.values()}
    figures: dict[str, dict[str, float]] = {}
    outcomes: dict[str, list[float | None]] = {}
    scores: list[float | None] | None = None
    if scorer.gives_verdicts:
        pairs = [pair for responses in versions.values() for pair in zip(samples, responses, strict=True)]
        if pairs:
            said = asking.verdicts(scorer, pairs, journal)
            figures = said.figures
            outcomes = dict(zip(versions, _in_turn(said.values, len(samples)), strict=True))
    else:
        said = asking.scores(scorer, [one for side in (samples, *versions.values()) for one in side], journal)
        scores, *others = _in_turn(said.values, len(samples))
        figures = said.figures
        for version, theirs in zip(versions, others, strict=True):
            outcomes[version] = [higher_wins(*both) for both in zip(scores, theirs, strict=True)]
    against = {
        name: _compare(samples, responses, outcomes[responses[0].policy], scorer.name, seed)
        for name, responses in opponents.items()
    }
    return Judged(against, figures, scores)


def _in_turn(values: Sequence[float | None], count: int) -> list[list[float | None]]:
    """Values in lists of `count` each."""
    return [list(values[start : start + count]) for start in range(0, len(values), count)]


def _compare(
    samples: Sequence[Completion],
    responses: Sequence[Completion],
    outcomes: Sequence[float | None],
    scorer: str,
    seed: int,
) -> dict[str, float | int | str]:
    """Who wins, plainly and at equal lengths; prompts without an outcome are left out and counted."""
    from align_cli.metrics.length_control import length_controlled_win_rate

    known = [
        (outcome, float(own.num_tokens), float(other.num_tokens))
        for outcome, own, other in zip(outcomes, samples, responses, strict=True)
        if outcome is not None
    ]
    unanswered = {"unanswered": len(samples) - len(known)} if len(known) < len(samples) else {}
    if not known:
        hint = "an evaluation needs a scorer that says something: this one cannot judge these responses"
        what = f"of {counted(len(samples), 'pair')} of responses none has a verdict"
        raise LabelerError(what, where=f"labelers.{scorer}", hint=hint)
    bootstrap_seed = derive_seed(seed, "bootstrap") % 2**32
    won, lengths, their_lengths = (list(column) for column in zip(*known, strict=True))
    plain = win_rate_of(won, seed=bootstrap_seed)
    controlled = length_controlled_win_rate(won, lengths, their_lengths, seed=bootstrap_seed)
    return {
        "win_rate": plain.win_rate,
        "low": plain.interval.low,
        "high": plain.interval.high,
        "length_controlled_win_rate": controlled.win_rate,
        "length_controlled_low": controlled.interval.low,
        "length_controlled_high": controlled.interval.high,
        "length_slope": controlled.length_slope,
        "wins": plain.wins,
        "ties": plain.ties,
        "losses": plain.losses,
        **unanswered,
        "policy": responses[0].policy,
    }


def with_scores(sample: Completion, place: int, judged: Mapping[str, Judged]) -> Completion:
    """A response with what each scorer that scores gave it."""
    found = {name: one.scores[place] for name, one in judged.items() if one.scores is not None}
    scores = {name: score for name, score in found.items() if score is not None}
    return replace(sample, scores=scores or None)
