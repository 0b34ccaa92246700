"""`method.kl`: reverse KL to the reference, and which responses may carry it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections.label import chooses
from align_cli.recipe.sections.sources import SOURCES, some_step_without
from align_cli.recipe.written.tree import shown

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe


class KlSection(Section):
    """`method.kl`: reverse KL to the reference as a loss (SAIL-RevKL, arXiv:2606.31524)."""

    coefficient: float = Field(
        0.0, ge=0, description="weight of the mean KL of a response, in nats, in every step; a list: by round"
    )
    target: float | None = Field(
        None,
        gt=0,
        description="KL in nats to hold the policy at: coefficient is where the weight begins, which then follows the "
        "KL of each step (arXiv:2007.03964); null leaves it as it is",
    )
    on: Literal["policy", "all"] = Field(
        "policy", description="responses that carry it: those that the policy sampled, or all of every batch"
    )
    gradient: Literal["pathwise", "full"] = Field(
        "full", description="the exact gradient of sequence KL, or its pathwise part alone, which is a regulariser"
    )

    baseline: bool = Field(
        True,
        description="in the full gradient: the KL behind a token less that of the pair's other response, where the "
        "policy drew both; the mean is the same, and without it policies were seen to run away",
    )

    @property
    def is_full(self) -> bool:
        """Whether it is on, with its exact gradient."""
        return self.coefficient > 0 and self.gradient == "full"


def _some_response_carries_it(view: View) -> Iterator[RuleFault]:
    """KL on the policy's responses needs such, in every pair."""
    if not view.get("method.kl.coefficient") or view.get("method.kl.on") != "policy":
        return
    if not _from_policy(view):
        what = "method.kl.on is policy, but no source samples the policy: no response would carry the KL"
        yield rule_fault("method.kl", what, "set method.kl.on to all and method.kl.gradient to pathwise")
    if view.get("generate.num_reference_generations") > 1:
        what = (
            "method.kl.on is policy, and generate.num_reference_generations is above 1: pairs of two of the "
            "reference's responses would carry no KL"
        )
        yield rule_fault("method.kl", what, "set generate.num_reference_generations to 1, or method.kl.on to all")


def _every_step_carries_it(view: View) -> Iterator[RuleFault]:
    if view.get("method.kl.coefficient") and view.get("method.kl.on") == "policy":
        yield from some_step_without(view, _from_policy(view), "method.kl")


def _target_has_what_it_is_measured_on(view: View) -> Iterator[RuleFault]:
    """A weight above 0 holds it; every step measures it, on the policy's responses: a dataset's say nothing of it."""
    key = "method.kl.target"
    if (target := view.get(key)) is None:
        return
    if not view.get("method.kl.coefficient"):
        what = f"{key} is {shown(target)}, and method.kl.coefficient, where its weight begins, is 0"
        yield rule_fault(key, what, "set method.kl.coefficient, such as 0.05")
    elif view.get("method.kl.on") == "all":  # else other rules see to it
        if not (names := _from_policy(view)):
            what = f"{key} is {shown(target)}, but no source samples the policy, on whose responses it is measured"
            yield rule_fault(key, what, "leave it out")
        if view.get("generate.num_reference_generations") > 1:
            what = (
                f"{key} is {shown(target)}, and generate.num_reference_generations is above 1: steps may have pairs of "
                "the reference's responses alone, on which it is not measured"
            )
            yield rule_fault(key, what, "set generate.num_reference_generations to 1, or leave it out")
        yield from some_step_without(view, names, key)


def _full_gradient_needs_draws(view: View) -> Iterator[RuleFault]:
    """The full gradient is exact on responses that the policy drew, and that nothing chose, and on no others."""
    if not view.get("method.kl.coefficient") or view.get("method.kl.gradient") != "full":
        return
    foreign = [
        name
        for name, source in SOURCES.items()
        if source.dataset_responses and view.get(f"method.sources.{name}.mixing")
    ]
    if view.get("generate.num_reference_generations"):
        foreign.append("the reference")
    if view.get("method.kl.on") == "all" and foreign:
        what = (
            f"method.kl.gradient is full on the responses of {' and '.join(foreign)}; it is exact on the policy's "
            "own responses alone"
        )
        yield rule_fault("method.kl", what, "set method.kl.gradient to pathwise, or method.kl.on to policy")
    if not _from_policy(view):
        return
    if chooses(view) and view.get("method.sources.dpr.mixing"):
        what = (
            "method.kl.gradient is full, and label.pairs chooses two of more responses; chosen responses are no draws "
            "from the policy, so it would not be exact"
        )
        yield rule_fault("method.kl", what, "set method.kl.gradient to pathwise, or label.pairs to all")
    if view.get("generate.top_k") or view.get("generate.top_p") < 1:
        what = "method.kl.gradient is full; with top_k or top_p responses are no draws from the policy"
        yield rule_fault("method.kl", what, "set method.kl.gradient to pathwise, or sample the whole distribution")
    if view.get("generate.temperature") != 1 and view.get("method.importance_weight_cap") is None:
        what = "method.kl.gradient is full; at another temperature than 1 responses are no draws from the policy"
        yield rule_fault(
            "method.kl", what, "set method.importance_weight_cap, such as 10, or generate.temperature to 1.0"
        )


def _from_policy(view: View) -> list[str]:
    """The sources in use that sample the policy."""
    return [
        name
        for name, source in SOURCES.items()
        if source.policy_responses and view.get(f"method.sources.{name}.mixing")
    ]


RULES: tuple[Rule, ...] = (
    _some_response_carries_it,
    _every_step_carries_it,
    _target_has_what_it_is_measured_on,
    _full_gradient_needs_draws,
)


def _no_baseline(recipe: Recipe) -> list[str]:
    """The full gradient makes every response less likely without one: on 32 pairs nine seeds of ten ran away."""
    if not recipe.method.kl.is_full or recipe.method.kl.baseline:
        return []
    return [
        "method.kl.baseline is false: the full gradient of the KL was seen to run away so, the more the fewer the "
        "pairs; leave it out"
    ]


WARNINGS = (_no_baseline,)
