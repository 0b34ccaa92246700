"""`evaluate`: held-out prompts, opponents and the scorer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections.labelers import (
    asks_a_person,
    asks_the_policy,
    kind_that_labels_nothing,
    unknown_labeler,
)
from align_cli.recipe.written.tree import shown

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe


class EvaluateSection(Section):
    """`evaluate`: held-out prompts, each policy against named opponents, by a scorer of its own."""

    num_prompts: int = Field(512, ge=1, description="held-out prompts used, the first of a seeded order")
    against: list[Literal["initial", "previous"]] = Field(
        default=["initial", "previous"], description="opponents of the win rate"
    )
    scorer: str | None = Field(
        None, description="name of the labeler that judges: by it the best round is chosen; not the training labeler"
    )
    scorers: list[str] = Field(
        default=[], description="labelers that judge beside it, each on its own; the first is the scorer if none is set"
    )
    temperature: float | None = Field(
        None, ge=1e-6, description="sampling temperature of held-out responses; unset: `generate.temperature`"
    )

    @property
    def all_scorers(self) -> list[str]:
        """The scorer, and those beside it; none is named twice."""
        return list(dict.fromkeys([*([self.scorer] if self.scorer else []), *self.scorers]))


def with_automatic_values(evaluate: EvaluateSection) -> EvaluateSection:
    """`evaluate.scorer` is set where there is any scorer, and the others stand in `evaluate.scorers`."""
    names = evaluate.all_scorers
    return evaluate.model_copy(update={"scorer": names[0] if names else None, "scorers": names[1:]})


def _scorers_judge(view: View) -> Iterator[RuleFault]:
    name = view.get("evaluate.scorer")
    named = [("evaluate.scorer", name)] if name is not None else []
    for key, one in [*named, *(("evaluate.scorers", one) for one in view.get("evaluate.scorers"))]:
        yield from unknown_labeler(view, key, one)
        if (kind := kind_that_labels_nothing(view, one)) is not None:
            what = f"{key} is {shown(one)}, of kind {kind}; a scorer must judge what the policy writes"
            yield rule_fault(key, what, "name another labeler, or leave it out: no win rate then")
        if asks_a_person(view, one):
            what = f"{key} is {shown(one)}, which asks a person; in an evaluation nobody is asked"
            yield rule_fault(key, what, "name a labeler that answers by itself, or leave it out: no win rate then")
        if asks_the_policy(view, one):
            what = f"{key} is {shown(one)}, which asks the policy itself; what it says changes from round to round"
            yield rule_fault(key, what, "name a labeler that stays the same, or leave it out: no win rate then")


def _opponents_differ(view: View) -> Iterator[RuleFault]:
    against = view.get("evaluate.against")
    for opponent in sorted({name for name in against if against.count(name) > 1}):
        yield rule_fault("evaluate.against", f"evaluate.against names {opponent} more than once", "name it once")


RULES: tuple[Rule, ...] = (_scorers_judge, _opponents_differ)


def _scorer_is_the_training_labeler(recipe: Recipe) -> list[str]:
    scorer, dpr = recipe.evaluate.scorer, recipe.method.sources.dpr
    if scorer is None or dpr is None or dpr.labeler is None or not recipe.is_online:
        return []
    if dpr.labeler == scorer:
        return [f"evaluate.scorer is the training labeler, {scorer}: its win rate cannot tell learning from gaming it"]
    together = {name: {name, *recipe.labelers[name].asks()} for name in (scorer, dpr.labeler)}
    shared = sorted(together[scorer] & together[dpr.labeler])
    if not shared:
        return []
    both = f"evaluate.scorer, {scorer}, and the training labeler, {dpr.labeler}, have {' and '.join(shared)} in common"
    return [f"{both}: its win rate cannot tell learning from gaming that"]


def _no_win_rate(recipe: Recipe) -> list[str]:
    if recipe.evaluate.scorer is None and recipe.evaluate.against:
        return ["evaluate.scorer is not set: evaluations hold no win rate"]
    return []


WARNINGS = (_scorer_is_the_training_labeler, _no_win_rate)
