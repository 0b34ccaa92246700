"""`method.optimism`: an exploring term, and which responses may carry it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections.label import chooses
from align_cli.recipe.sections.sources import some_step_without


class OptimismSection(Section):
    """`method.optimism`: makes likelier what the reference would not say (XPO arXiv:2405.21046, SELM 2405.19332)."""

    coefficient: float = Field(
        0.0,
        ge=0,
        description="weight of the mean log-ratio of responses that the reference sampled (SELM's αβ, XPO's α); "
        "a list: by round",
    )
    on: Literal["reference", "policy"] = Field(
        "reference",
        description="responses that carry it: those of generate.num_reference_generations, or the round's own where "
        "policy.reference is previous, since that policy sampled them",
    )


def _optimism_has_responses(view: View) -> Iterator[RuleFault]:
    """The term is an expectation over the reference's responses: they must be there, whole and as drawn."""
    if not view.get("method.optimism.coefficient"):
        return
    where, key = view.get("method.optimism.on"), "method.optimism"
    if not view.get("method.sources.dpr.mixing"):
        what = "method.optimism without a share of the source dpr: no pair would carry it"
        yield rule_fault(key, what, "give dpr a share, or set method.optimism.coefficient to 0")
        return
    yield from some_step_without(view, ["dpr"], key)
    if where == "reference" and not view.get("generate.num_reference_generations"):
        what = "method.optimism.on is reference, but generate.num_reference_generations is 0"
        hint = "set generate.num_reference_generations to 1, and generate.num_generations to 1"
        if view.get("policy.reference") == "previous":
            hint = "set method.optimism.on to policy: with policy.reference previous that policy is the reference"
        yield rule_fault(key, what, hint)
    elif where == "policy" and view.get("policy.reference") != "previous":
        what = "method.optimism.on is policy, but policy.reference is not previous: the reference sampled none of them"
        yield rule_fault(key, what, "set policy.reference to previous, or method.optimism.on to reference")
    elif where == "policy" and view.get("train.replay_rounds"):
        what = "method.optimism.on is policy, and train.replay_rounds is above 0: another reference sampled those pairs"
        yield rule_fault(key, what, "set train.replay_rounds to 0")
    elif where == "reference" and view.get("generate.num_generations") > 1 and not chooses(view):
        what = "method.optimism.on is reference, and generate.num_generations is above 1: some pairs would carry none"
        yield rule_fault(key, what, "set generate.num_generations to 1")
    if chooses(view):
        what = "method.optimism on two chosen of more responses; chosen responses are no draws from the reference"
        one_each = "set generate.num_generations and generate.num_reference_generations to 1"
        yield rule_fault(key, what, one_each if where == "reference" else "set label.pairs to all")
    if view.get("generate.top_k") or view.get("generate.top_p") < 1 or view.get("generate.temperature") != 1:
        what = (
            "method.optimism with top_k, top_p or another temperature than 1: responses are no draws from the reference"
        )
        yield rule_fault(key, what, "sample the whole distribution at temperature 1")


RULES: tuple[Rule, ...] = (_optimism_has_responses,)
