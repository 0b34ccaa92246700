"""`generate.rounds_ahead`: what else has to hold where a round is sampled before the one before it is trained.

Its responses are those of the policy that the training of the round before starts from. Importance weights make up for
that, so whatever they cannot go with is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections.engine_server import SERVER
from align_cli.recipe.sections.labelers.self_judge import SELF_JUDGE
from align_cli.recipe.sections.method import CAP, trl_key
from align_cli.recipe.sections.sources import SOURCES

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe

KEY = "generate.rounds_ahead"
OFF = f"set {KEY} to 0"
IS_SET = f"{KEY} is 1"


def _something_is_sampled(view: View) -> Iterator[RuleFault]:
    sampled = (name for name, source in SOURCES.items() if source.policy_responses)
    if view.get(KEY) and not any(view.get(f"method.sources.{name}.mixing") for name in sampled):
        yield rule_fault(KEY, f"{IS_SET}, and no source has responses of the policy: nothing is sampled", OFF)


def _older_responses_are_weighed(view: View) -> Iterator[RuleFault]:
    """Without weights they would be taken for the policy's own."""
    if not view.get(KEY):
        return
    reason = f"{IS_SET}: responses are a round older than the policy that trains on them, which importance weights"
    if (key := trl_key(view)) is not None:
        what = f"method.{key} makes the loss TRL's own, which takes no importance weights. {reason} make up for"
        yield rule_fault(KEY, what, f"{OFF}, or take a loss of align's own (method.loss_type), without TRL's options")
    elif view.is_null(CAP):
        what = f"{CAP} is null. {reason} have to make up for"
        yield rule_fault(CAP, what, f"leave it out, which is 2 then; or {OFF}")


def _reference_samples_itself(view: View) -> Iterator[RuleFault]:
    if view.get(KEY) and view.get("method.optimism.coefficient") and view.get("method.optimism.on") == "policy":
        what = f"{IS_SET}, and method.optimism.on is policy: another reference sampled those responses"
        yield rule_fault(KEY, what, OFF)


def _judges_judge_their_own(view: View) -> Iterator[RuleFault]:
    name = view.get("method.sources.dpr.labeler")
    if not view.get(KEY) or name not in view.labeler_names():
        return
    for one in (name, *(view.labeler(name).get("of") or ())):
        if one in view.labeler_names() and view.labeler(one)["kind"] == SELF_JUDGE:
            what = f"{IS_SET}, and labelers.{one} is the policy itself: it would judge those of the round before it"
            yield rule_fault(KEY, what, f"{OFF}, or name another labeler")


def _stages_can_be_at_work_at_once(view: View) -> Iterator[RuleFault]:
    if view.get(KEY) and view.get("launch.isolate"):
        what = f"{IS_SET}, and launch.isolate is true, which has one stage at work after the other"
        yield rule_fault(KEY, what, f"{OFF}, or launch.isolate to false")


RULES: tuple[Rule, ...] = (
    _something_is_sampled,
    _older_responses_are_weighed,
    _reference_samples_itself,
    _judges_judge_their_own,
    _stages_can_be_at_work_at_once,
)


def _saves_no_time(recipe: Recipe) -> list[str]:
    if not recipe.generate.rounds_ahead:
        return []
    if recipe.generate.engine != SERVER:
        return [f"{IS_SET} with the engine {recipe.generate.engine}: this process samples and then trains, as without"]
    if recipe.checkpoints.every_rounds > 1:
        what = f"{IS_SET} with checkpoints.every_rounds above 1: after a round without a checkpoint servers sample, and"
        return [f"{what} then the round before is trained"]
    return []


WARNINGS = (_saves_no_time,)
