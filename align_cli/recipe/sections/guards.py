"""`guards`: what tells that training goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault

GuardAction = Literal["stop", "rollback", "warn"]
_ACTION = "what to do: stop the run, roll back to the best round's policy, or warn"


class NonFiniteGuardSection(Section):
    """`guards.non_finite`: a loss or a gradient of a step is infinite or no number."""

    action: Literal["stop", "rollback"] = Field(
        "stop", description="stop the run, or give the round up and go on from the best round's policy"
    )


class KlGuardSection(Section):
    """`guards.kl`: the evaluation's KL to the reference is too large."""

    above: float = Field(50.0, gt=0, description="nats a response")
    action: GuardAction = Field("warn", description=_ACTION)


class LengthGuardSection(Section):
    """`guards.length`: responses collapse or explode, measured by the initial policy's mean length."""

    shrunk_to: float = Field(0.25, ge=0, lt=1, description="share of the initial length below which they collapse")
    grown_to: float = Field(4.0, gt=1, description="multiple of the initial length above which they explode")
    action: GuardAction = Field("warn", description=_ACTION)


class EosGuardSection(Section):
    """`guards.eos_rate`: responses no longer end by themselves, measured by the initial policy's EOS rate."""

    fallen_to: float = Field(0.5, gt=0, lt=1, description="share of the initial EOS rate")
    action: GuardAction = Field("warn", description=_ACTION)


class StuckLossGuardSection(Section):
    """`guards.stuck_loss`: DPO's loss stays at ln 2, as if the pairs said nothing."""

    steps: int = Field(50, ge=1, description="last steps of a round that have to stay there")
    within: float = Field(
        1.0e-3,
        gt=0,
        description="distance from ln 2 that counts as there; for losses that are elsewhere at a margin of 0, a share "
        "of it",
    )
    action: GuardAction = Field("warn", description=_ACTION)


class WinRateGuardSection(Section):
    """`guards.win_rate`: the win rate against the initial policy falls round after round."""

    rounds: int = Field(2, ge=1, description="rounds in a row")
    action: GuardAction = Field("warn", description=_ACTION)


class RewardGapGuardSection(Section):
    """`guards.reward_gap`: the training labeler's reward rises while the evaluation scorer's falls."""

    rounds: int = Field(2, ge=1, description="rounds in a row")
    action: GuardAction = Field("warn", description=_ACTION)


class LabelsGuardSection(Section):
    """`guards.labels`: length alone says which response wins, or says another thing than in the first round."""

    longer_won: float = Field(
        0.9, gt=0.5, le=1, description="share of pairs won by the longer response, or by the shorter one, at least"
    )
    drifted: float = Field(
        0.3, gt=0, le=1, description="change since round 1 of the share of pairs won by the longer response, at least"
    )
    pairs: int = Field(50, ge=1, description="fewer pairs of different length say nothing")
    action: GuardAction = Field("warn", description=_ACTION)


class GuardsSection(Section):
    """`guards`: what tells that training goes wrong, and what to do about it; null switches one off."""

    non_finite: NonFiniteGuardSection = NonFiniteGuardSection()
    kl: KlGuardSection | None = KlGuardSection()
    length: LengthGuardSection | None = LengthGuardSection()
    eos_rate: EosGuardSection | None = EosGuardSection()
    stuck_loss: StuckLossGuardSection | None = StuckLossGuardSection()
    win_rate: WinRateGuardSection | None = WinRateGuardSection()
    reward_gap: RewardGapGuardSection | None = RewardGapGuardSection()
    labels: LabelsGuardSection | None = LabelsGuardSection()


def _rollback_knows_the_best(view: View) -> Iterator[RuleFault]:
    for name in GuardsSection.model_fields:
        key = f"guards.{name}.action"
        if view.has(f"guards.{name}") and view.sound(key) == "rollback":
            scored = view.get("evaluate.scorer") is not None or bool(view.get("evaluate.scorers"))
            measured = scored and "initial" in view.get("evaluate.against")
            if not measured:
                what = f"{key} is rollback, but no win rate against the initial policy says which round is the best"
                yield rule_fault(key, what, "set evaluate.scorer and evaluate.against: [initial], or another action")


RULES: tuple[Rule, ...] = (_rollback_knows_the_best,)
