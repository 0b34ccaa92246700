"""Labelers of kind `judge`: their keys, and what has to hold between these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section, Usual
from align_cli.recipe.checking.view import Rule, RuleFault, UnsoundError, View, rule_fault
from align_cli.recipe.sections.labelers.base import Gives
from align_cli.recipe.sections.labelers.server import ServerLabelerSection, no_address
from align_cli.recipe.sections.labelers.template import parts_of
from align_cli.recipe.written.tree import shown

TEMPLATES: dict[str, Gives] = {"pairwise": "verdicts", "score": "scores", "additive": "scores"}
"""The templates that come with align, and what a judge answers with by each."""
OWN_KEYS = {
    "model": "model",
    "messages": "template",
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "seed": "seed",
    "n": "votes",
}
"""What of a request's body is said by a key of its own."""
CHAT_PATH = "/chat/completions"


class BudgetSection(Section):
    """`budget`: what a judge may cost in all, reckoned over all runs into the same `output_dir`."""

    calls: int | None = Field(None, ge=1, description="the most requests")
    tokens: int | None = Field(None, ge=1, description="the most tokens of prompts and answers together")
    money: float | None = Field(None, gt=0, description="the most money, in the currency of `price`")


class PriceSection(Section):
    """`price`: what tokens cost, in any one currency."""

    input: float = Field(ge=0, description="of a million tokens of prompts")
    output: float = Field(ge=0, description="of a million tokens of answers")


class JudgeLabelerSection(ServerLabelerSection):
    """A labeler of kind `judge`: a language model behind any endpoint like OpenAI's."""

    FREE_KEYS: ClassVar[tuple[str, ...]] = (
        *ServerLabelerSection.FREE_KEYS,
        "base_url",
        "requests_per_minute",
        "tokens_per_minute",
        "budget",
        "price",
        "max_unparsable",
    )
    COSTS: ClassVar[bool] = True

    kind: Literal["judge"] = Field(description="what gives the labels")
    base_url: str = Field(min_length=1, description="the endpoint's address, as in `http://127.0.0.1:8000/v1`")
    template: str = Field(
        "pairwise",
        min_length=1,
        description="what the judge is told: `pairwise`, `score`, `additive`, or a text file of yours (docs/judge.md)",
    )
    orders: Literal["both", "one"] = Field(
        "both",
        description="whether a pair is shown in both orders, or in one that is drawn by what it says; pairwise only",
    )
    votes: int = Field(1, ge=1, le=1000, description="answers to each question; they are averaged")
    temperature: Annotated[float | None, Usual("0 for one vote, 0.7 for several")] = Field(
        0.0, ge=0, le=2, description="of the judge's sampling; null leaves it to the server"
    )
    max_tokens: int | None = Field(
        1024, ge=1, description="longest answer, thinking included; null leaves it to the server"
    )
    seed: int | None = Field(
        0, ge=0, le=2**31 - 1, description="of sampling (vote i has seed + i) and of drawn orders; null sends none"
    )
    requests_per_minute: float | None = Field(None, gt=0, description="the most requests a minute; null: no limit")
    tokens_per_minute: float | None = Field(
        None, gt=0, description="the most tokens a minute, prompts and answers together; null: no limit"
    )
    budget: BudgetSection | None = Field(None, description="what it may cost in all; left out: anything")
    price: PriceSection | None = Field(None, description="what tokens cost; left out: unknown")
    max_unparsable: float = Field(
        0.2, ge=0, le=1, description="the largest share of answers without a verdict, above which the stage stops"
    )

    @property
    def gives(self) -> Gives:
        """Scores by a template that shows one completion, verdicts by one that shows two."""
        if self.template in TEMPLATES:
            return TEMPLATES[self.template]
        try:
            text = Path(self.template).read_text(encoding="utf-8-sig")
        except (OSError, ValueError):  # of which others speak
            return "verdicts"
        return "scores" if "completion" in parts_of(text.splitlines()).fields else "verdicts"

    @property
    def num_requests(self) -> int:
        return self.votes * (2 if self.gives == "verdicts" and self.orders == "both" else 1)

    def files(self) -> dict[str, str]:
        return {} if self.template in TEMPLATES else {"template": self.template}

    def names_of_files(self) -> dict[str, list[str]]:
        return {"template": list(TEMPLATES)}


def _judges(view: View) -> Iterator[tuple[str, JudgeLabelerSection]]:
    """The sound judges, by name."""
    for name in view.labeler_names():
        try:
            written = view.labeler(name)
        except UnsoundError:
            continue
        if written["kind"] == "judge":
            yield f"labelers.{name}", JudgeLabelerSection.model_validate(written)


def _votes_can_differ(view: View) -> Iterator[RuleFault]:
    for key, judge in _judges(view):
        if judge.votes > 1 and judge.temperature == 0:
            what = f"{key}.votes is {judge.votes}, and {key}.temperature is 0: all votes would be the same"
            yield rule_fault(f"{key}.votes", what, f"set {key}.temperature to 0.7, or votes to 1")


def _money_has_a_price(view: View) -> Iterator[RuleFault]:
    for key, judge in _judges(view):
        if judge.budget is not None and judge.budget.money is not None and judge.price is None:
            what = f"{key}.budget.money is {judge.budget.money:g}, and {key}.price is left out"
            yield rule_fault(f"{key}.budget.money", what, f"set {key}.price, as in {{input: 0.15, output: 0.6}}")


def _extra_body_is_extra(view: View) -> Iterator[RuleFault]:
    for key, judge in _judges(view):
        for name in judge.extra_body or {}:
            if name in OWN_KEYS:
                what = f"{key}.extra_body has {shown(name)}, which {key}.{OWN_KEYS[name]} says"
                yield rule_fault(f"{key}.extra_body", what, f"take it out, and set {key}.{OWN_KEYS[name]}")
            elif name == "stream":
                what = f"{key}.extra_body has 'stream'; answers are read whole"
                yield rule_fault(f"{key}.extra_body", what, "take it out")


def _address_is_whole(view: View) -> Iterator[RuleFault]:
    for key, judge in _judges(view):
        yield from no_address(f"{key}.base_url", judge.base_url)
        if judge.base_url.rstrip("/").endswith(CHAT_PATH):
            what = f"{key}.base_url is {shown(judge.base_url)}; the path of a request is added to it"
            yield rule_fault(f"{key}.base_url", what, f"leave out {CHAT_PATH}")


RULES: tuple[Rule, ...] = (_votes_can_differ, _money_has_a_price, _extra_body_is_extra, _address_is_whole)
