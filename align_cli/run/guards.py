"""Training gone wrong: what a round's figures say, with likely causes, and what the recipe wants done about it.

Pure: figures in, findings out. `results` gathers the figures when a round is over, `step` acts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from align_cli.artifacts.records import Evaluation
from align_cli.recipe.sections.guards import GuardsSection
from align_cli.recipe.sections.method import MethodSection
from align_cli.training.zero_margin import LN_2, loss_at_zero_margin


@dataclass(frozen=True)
class Finding:
    """Something that a guard saw.

    Args:
        guard: the guard's key in the recipe.
        action: `stop`, `rollback` or `warn`.
        message: the figures, and what is likely behind them.
    """

    guard: str
    action: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """As manifests have it."""
        return {"guard": self.guard, "action": self.action, "message": self.message}


@dataclass(frozen=True)
class RoundFigures:
    """What is known of a run when a round is over.

    Args:
        evaluations: of the rounds so far, by round, from the initial policy's on; those that there are.
        steps: figures of the round's optimizer steps.
        training_rewards: the labeler's mean score of each round's pairs, by round; empty without a labeler.
        longer_won: how often the longer response of a pair won in the round, and of how many pairs; None without any.
        longer_won_first: the same of round 1.
    """

    evaluations: Sequence[Evaluation]
    steps: Sequence[Mapping[str, float]]
    training_rewards: Mapping[int, float]
    longer_won: tuple[float, int] | None = None
    longer_won_first: tuple[float, int] | None = None


def findings(guards: GuardsSection, figures: RoundFigures, method: MethodSection) -> list[Finding]:
    """Every guard's word on a round that is over."""
    checks = (_kl, _length, _eos_rate, _win_rate, _reward_gap)
    found = [finding for check in checks for finding in check(guards, figures)] if figures.evaluations else []
    return [*found, *_labels(guards, figures), *_stuck_loss(guards, figures, loss_at_zero_margin(method))]


def _kl(guards: GuardsSection, figures: RoundFigures) -> Iterator[Finding]:
    now = figures.evaluations[-1]
    if guards.kl and (kl := float(now.kl["mean"])) > guards.kl.above:
        yield Finding(
            "kl",
            guards.kl.action,
            f"KL to the reference is {kl:.3g} nats, above {guards.kl.above:g}: the policy has left what the reference "
            "says. Likely: a learning rate too high, no method.kl on self-labelled sources, or a beta too low",
        )


def _length(guards: GuardsSection, figures: RoundFigures) -> Iterator[Finding]:
    first, now = figures.evaluations[0], figures.evaluations[-1]
    if not guards.length or first is now:
        return
    before, after = first.length["mean"], now.length["mean"]
    if after < guards.length.shrunk_to * before:
        yield Finding(
            "length",
            guards.length.action,
            f"responses have {after:.3g} tokens on average, the initial policy's had {before:.3g}: they collapse. "
            "Likely: a bilevel coefficient too high, or a labeler that likes short texts",
        )
    elif after > guards.length.grown_to * before:
        yield Finding(
            "length",
            guards.length.action,
            f"responses have {after:.3g} tokens on average, the initial policy's had {before:.3g}: they explode. "
            "Likely: a labeler that likes long texts, or pairs whose chosen responses are the longer ones",
        )


def _eos_rate(guards: GuardsSection, figures: RoundFigures) -> Iterator[Finding]:
    first, now = figures.evaluations[0], figures.evaluations[-1]
    if guards.eos_rate and now.eos_rate < guards.eos_rate.fallen_to * first.eos_rate:
        yield Finding(
            "eos_rate",
            guards.eos_rate.action,
            f"{now.eos_rate:.0%} of the responses end by themselves, of the initial policy's {first.eos_rate:.0%} did. "
            "Likely: end-of-sequence tokens missing from the pairs, or generate.max_new_tokens too low",
        )


def _win_rate(guards: GuardsSection, figures: RoundFigures) -> Iterator[Finding]:
    if not guards.win_rate:
        return
    rates = [
        (item.round, float(item.against["initial"]["win_rate"]))
        for item in figures.evaluations
        if "initial" in item.against
    ]
    last = rates[-guards.win_rate.rounds - 1 :]
    if len(last) > guards.win_rate.rounds and _falls([rate for _, rate in last]):
        yield Finding(
            "win_rate",
            guards.win_rate.action,
            f"the win rate against the initial policy has fallen for {_rounds(guards.win_rate.rounds)}: "
            f"{_series(last)}. Likely: training goes on past what the labels can teach, or the labeler is being gamed",
        )


def _reward_gap(guards: GuardsSection, figures: RoundFigures) -> Iterator[Finding]:
    if not guards.reward_gap:
        return
    both = [
        (item.round, figures.training_rewards[item.round], item.reward["mean"])
        for item in figures.evaluations
        if item.reward is not None and item.round in figures.training_rewards
    ]
    last = both[-guards.reward_gap.rounds - 1 :]
    training, evaluated = [entry[1] for entry in last], [entry[2] for entry in last]
    if len(last) > guards.reward_gap.rounds and _falls([-value for value in training]) and _falls(evaluated):
        yield Finding(
            "reward_gap",
            guards.reward_gap.action,
            f"for {_rounds(guards.reward_gap.rounds)} the training labeler's reward rose "
            f"({_series([(entry[0], entry[1]) for entry in last])}) while the evaluation scorer's fell "
            f"({_series([(entry[0], entry[2]) for entry in last])}). Likely: the policy games the training labeler",
        )


def _labels(guards: GuardsSection, figures: RoundFigures) -> Iterator[Finding]:
    guard = guards.labels
    if not guard or figures.longer_won is None or figures.longer_won[1] < guard.pairs:
        return
    share, pairs = figures.longer_won
    first, first_pairs = figures.longer_won_first or figures.longer_won
    if abs(share - first) >= guard.drifted and first_pairs >= guard.pairs:
        yield Finding(
            "labels",
            guard.action,
            f"the longer response won {share:.0%} of {pairs} pairs, {first:.0%} of {first_pairs} in round 1: the "
            "labels reward something else than they did. Likely: the policy has found what the labeler overrates, or "
            "the labeler is another one now",
        )
    if max(share, 1 - share) >= guard.longer_won:
        side = "longer" if share > 0.5 else "shorter"
        yield Finding(
            "labels",
            guard.action,
            f"the {side} response won {max(share, 1 - share):.0%} of {pairs} pairs: length alone says which one wins, "
            "and that is what the policy will learn. Likely: a labeler that counts words, or adds up over them",
        )


def _stuck_loss(guards: GuardsSection, figures: RoundFigures, stuck_at: float | None) -> Iterator[Finding]:
    if not guards.stuck_loss or stuck_at is None:
        return
    within, is_ln_2 = guards.stuck_loss.within, math.isclose(stuck_at, LN_2)
    distance = within if is_ln_2 else within * stuck_at
    place = f"{within:g} of ln 2" if is_ln_2 else f"{within:.3%} of {stuck_at:.4g}, its value at a margin of 0,"
    for name, losses in _losses(figures.steps).items():
        tail = losses[-guards.stuck_loss.steps :]
        if len(tail) == guards.stuck_loss.steps and all(abs(loss - stuck_at) < distance for loss in tail):
            yield Finding(
                "stuck_loss",
                guards.stuck_loss.action,
                f"{name} stayed within {place} for {len(tail)} steps: the "
                "policy learns nothing from these pairs. Likely: a learning rate too low, labels that are chance, or "
                "chosen and rejected texts that are the same to the model, as with a wrong chat template",
            )


def _losses(steps: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The losses on pairs whose labels are not the policy's own, by what to call them; TRL's own know no sources."""
    found = {
        f"the loss on {source}": [step[f"{source}/loss"] for step in steps if f"{source}/loss" in step]
        for source in ("offline", "dpr", "dmd")
    }
    is_by_source = any(name.endswith("/loss") for step in steps for name in step)
    return found if is_by_source else {"the loss": [step["loss"] for step in steps if "loss" in step]}


def _falls(values: Sequence[float]) -> bool:
    return all(later < earlier for earlier, later in pairwise(values))


def _series(values: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"{value:.3g} (round {number})" for number, value in values)


def _rounds(number: int) -> str:
    return "one round" if number == 1 else f"{number} rounds in a row"


def decided(found: Sequence[Finding]) -> str | None:
    """The strongest action among findings: `stop` before `rollback`; None where there is neither."""
    actions = {finding.action for finding in found}
    return "stop" if "stop" in actions else "rollback" if "rollback" in actions else None
