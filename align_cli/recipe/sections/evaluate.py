"""`evaluate`: held-out prompts, opponents and the scorer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections.labelers import kind_without_scores, unknown_labeler
from align_cli.recipe.written.tree import shown

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe


class EvaluateSection(Section):
    """`evaluate`: held-out prompts, each policy against named opponents, by a scorer of its own."""

    num_prompts: int = Field(512, ge=1, description="held-out prompts used, the first of a seeded order")
    against: list[Literal["initial", "previous"]] = Field(
        default=["initial", "previous"], description="opponents of the win rate"
    )
    scorer: str | None = Field(None, description="name of the labeler that scores; should not be the training labeler")


def _scorer_scores(view: View) -> Iterator[RuleFault]:
    name = view.get("evaluate.scorer")
    if name is None:
        return
    yield from unknown_labeler(view, "evaluate.scorer", name)
    if (kind := kind_without_scores(view, name)) is not None:
        what = f"evaluate.scorer is {shown(name)}, of kind {kind}; a scorer must give scores"
        yield rule_fault("evaluate.scorer", what, "name a labeler of kind function, or leave it out: no win rate then")


def _opponents_differ(view: View) -> Iterator[RuleFault]:
    against = view.get("evaluate.against")
    for opponent in sorted({name for name in against if against.count(name) > 1}):
        yield rule_fault("evaluate.against", f"evaluate.against names {opponent} more than once", "name it once")


RULES: tuple[Rule, ...] = (_scorer_scores, _opponents_differ)


def _scorer_is_the_training_labeler(recipe: Recipe) -> list[str]:
    scorer, dpr = recipe.evaluate.scorer, recipe.method.sources.dpr
    if scorer is not None and recipe.is_online and dpr is not None and dpr.labeler == scorer:
        return [f"evaluate.scorer is the training labeler, {scorer}: its win rate cannot tell learning from gaming it"]
    return []


def _no_win_rate(recipe: Recipe) -> list[str]:
    if recipe.evaluate.scorer is None and recipe.evaluate.against:
        return ["evaluate.scorer is not set: evaluations hold no win rate"]
    return []


WARNINGS = (_scorer_is_the_training_labeler, _no_win_rate)
