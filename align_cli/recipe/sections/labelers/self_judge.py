"""Labelers of kind `self_judge`: their keys, and what has to hold between these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from align_cli.recipe.checking.section import Usual
from align_cli.recipe.checking.view import Rule, RuleFault, UnsoundError, View, rule_fault
from align_cli.recipe.sections.labelers.base import LabelerSection
from align_cli.recipe.sections.labelers.judge import TEMPLATES
from align_cli.recipe.written.tree import shown

SELF_JUDGE = "self_judge"
"""The kind that is the round's policy itself."""


class SelfJudgeLabelerSection(LabelerSection):
    """A labeler of kind `self_judge`: the round's policy itself scores its own responses (arXiv:2401.10020)."""

    FREE_KEYS: ClassVar[tuple[str, ...]] = (*LabelerSection.FREE_KEYS, "max_unparsable")

    kind: Literal["self_judge"] = Field(description="what gives the labels")
    template: str = Field(
        "additive",
        min_length=1,
        description="what the policy is told: `additive`, `score`, or a text file of yours (docs/judge.md)",
    )
    votes: int = Field(3, ge=1, le=1000, description="answers about each response; their scores are averaged")
    temperature: Annotated[float, Usual("0.7 is the paper's")] = Field(
        0.7, ge=1e-6, description="sampling temperature of the answers"
    )
    top_p: Annotated[float, Usual("0.9 is the paper's")] = Field(
        1.0, gt=0, le=1, description="nucleus mass of the answers; 1 keeps all"
    )
    max_new_tokens: int = Field(512, ge=1, description="longest answer, in tokens, thinking included")
    batch_size: int = Field(32, ge=1, description="answers sampled together; changes none of them")
    max_unparsable: float = Field(
        0.2, ge=0, le=1, description="the largest share of answers without a score, above which the stage stops"
    )

    @property
    def num_requests(self) -> int:
        return self.votes

    def files(self) -> dict[str, str]:
        return {} if self.template in TEMPLATES else {"template": self.template}

    def names_of_files(self) -> dict[str, list[str]]:
        return {"template": [name for name, gives in TEMPLATES.items() if gives == "scores"]}


def _template_gives_scores(view: View) -> Iterator[RuleFault]:
    for name in view.labeler_names():
        try:
            written = view.labeler(name)
        except UnsoundError:
            continue
        template = written.get("template", "additive")
        if written["kind"] == SELF_JUDGE and TEMPLATES.get(template) == "verdicts":
            key = f"labelers.{name}.template"
            what = f"{key} is {shown(template)}, which compares two responses; a self_judge scores each"
            yield rule_fault(key, what, "set it to additive, or leave it out")


RULES: tuple[Rule, ...] = (_template_gives_scores,)
