"""`method.nll`: the likelihood of the response that won, beside a preference loss."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections.sources import SOURCES


class NllSection(Section):
    """`method.nll`: negative log-likelihood of the response that won, per token (Iterative RPO, arXiv:2404.19733)."""

    coefficient: float = Field(
        0.0,
        ge=0,
        description="weight of the winner's negative log-likelihood per token (the paper's α: 1); a list: by round",
    )


def _goes_with_labels_of_others(view: View) -> Iterator[RuleFault]:
    """The bilevel terms are the gradient of the preference loss alone; with this beside it they would not be exact."""
    if not view.get("method.nll.coefficient"):
        return
    for name, source in SOURCES.items():
        if not view.get(f"method.sources.{name}.mixing"):
            continue
        if source.policy_labels:
            what = f"method.nll with the source {name}, whose winners the policy names itself: it would only sharpen"
            yield rule_fault("method.nll", what, f"set method.nll.coefficient to 0, or remove method.sources.{name}")
        elif "gradient" in source.model_fields and view.get(f"method.sources.{name}.gradient"):
            what = f"method.nll with a gradient of {name} above 0; the bilevel terms know nothing of it"
            hint = f"set method.nll.coefficient or method.sources.{name}.gradient to 0"
            yield rule_fault("method.nll", what, hint)


RULES: tuple[Rule, ...] = (_goes_with_labels_of_others,)
