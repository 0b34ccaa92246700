"""`label`: how scored completions become pairs, and which pairs may be left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from align_cli.recipe.checking.section import Section, Usual
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.presets import preset_value
from align_cli.recipe.sections.sources import SOURCES

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe
    from align_cli.recipe.sections.method import MethodSection

KeepOrDrop = Literal["keep", "drop"]


class LabelSection(Section):
    """`label`: how scored completions become pairs. Every pair that is left out is counted."""

    pairs: Literal["best_worst", "best_random", "all"] = Field(
        "best_worst", description="of K completions: best against worst, best against a random other, or all pairs"
    )
    labels: Literal["hard", "sampled", "soft", "win_rate"] = Field(
        "hard",
        description="higher score wins; drawn by Bradley-Terry; the Bradley-Terry probability itself; or win_rate: by "
        "how often each response is expected to win against all of its prompt's, which SPPO regresses on and DNO puts "
        "into a sigmoid",
    )
    temperature: Annotated[float, Usual("1.0 is Bradley-Terry as it stands")] = Field(
        1.0, gt=0, description="Bradley-Terry temperature of sampled and soft labels by scores; verdicts have none"
    )
    min_margin: float = Field(
        0.0,
        ge=0,
        description="smallest difference of scores, of win rates, or of a verdict p 2 p - 1; closer pairs are dropped",
    )
    ties: KeepOrDrop | None = Field(
        None,
        description="pairs of equal score: keep (label one half) or drop; unset: keep with gradient, full KL, optimism",
    )
    equal_texts: KeepOrDrop | None = Field(
        None, description="pairs of the same tokens: keep or drop; unset: keep with gradient, full KL, optimism"
    )
    empty_texts: KeepOrDrop = Field("keep", description="pairs with an empty completion: keep or drop")
    compared_pairs: int = Field(
        100,
        ge=0,
        description="pairs a round on which scorers that give scores at no cost are asked too: how far they agree",
    )
    thinking: Literal["keep", "strip"] = Field(
        "keep", description="`<think>…</think>` in what labelers and scorers read: keep, or strip"
    )


def with_automatic_values(label: LabelSection, method: MethodSection) -> LabelSection:
    """Unset `label.ties` and `label.equal_texts` become keep where leaving pairs out would bias a gradient, else drop.

    It would with a bilevel coefficient, the full KL or optimism.
    """
    keeps = method.sources.has_gradient or method.kl.is_full or method.optimism.coefficient > 0
    unset = "keep" if keeps else "drop"
    ties, equal_texts = label.ties or unset, label.equal_texts or unset
    return label.model_copy(update={"ties": ties, "equal_texts": equal_texts})


def chooses(view: View) -> bool:
    """Whether pairs of dpr are a choice among more than two responses."""
    number = view.get("generate.num_generations") + view.get("generate.num_reference_generations")
    return bool(number > 2 and view.get("label.pairs") != "all")


def _expectations_keep_every_pair(view: View) -> Iterator[RuleFault]:
    """What is an expectation over responses must not lose those that a score or a text singles out."""
    kl = view.get("method.kl.coefficient") and view.get("method.kl.gradient") == "full"
    for name, source in SOURCES.items():
        if not source.left_out_by or not view.get(f"method.sources.{name}.mixing"):
            continue
        if view.get(f"method.sources.{name}.gradient"):
            reason, off = "a gradient above 0", f"method.sources.{name}.gradient to 0"
        elif kl:
            reason, off = "the full KL", "method.kl.gradient to pathwise"
        elif name == "dpr" and view.get("method.optimism.coefficient"):
            reason, off = "optimism", "method.optimism.coefficient to 0"
        else:
            continue
        for key in source.left_out_by:
            value, keeps = view.sound(f"label.{key}"), "0" if key == "min_margin" else "keep"
            if value == "drop" or (key == "min_margin" and value):
                what = f"label.{key} is {value}; with {reason} leaving pairs out would bias the gradient"
                yield rule_fault(f"label.{key}", what, f"set label.{key} to {keeps}, or {off}")
        return


RULES: tuple[Rule, ...] = (_expectations_keep_every_pair,)


def _completions_in_vain(recipe: Recipe) -> list[str]:
    number, sources = recipe.generate.num_generations, recipe.method.sources
    if "dpr" not in sources.in_use() or number <= 2 or recipe.label.pairs != "best_worst" or sources.has_gradient:
        return []
    if _is_best_against_worst(recipe.preset):
        return []
    return [f"of generate.num_generations {number} completions a prompt, label.pairs best_worst trains on two"]


def _is_best_against_worst(preset: str | None) -> bool:
    """Whether a preset is just that: best against worst of more than two."""
    pairs, number = preset_value(preset, "label", "pairs"), preset_value(preset, "generate", "num_generations")
    return pairs == "best_worst" and number > 2


WARNINGS = (_completions_in_vain,)
