"""`data`: where prompts, offline pairs and demonstrations come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from align_cli.recipe.checking.files import empty_texts, missing_data
from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.data_names import BUILT_IN_WORLDS, REVIEWS
from align_cli.recipe.sections.sources import SOURCES

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe

MAX_LENGTH = "set data.max_prompt_tokens and data.max_completion_tokens"
_KEYS = ("data.prompts", "data.preferences", "data.demonstrations", "data.eval_prompts", "data.eval_preferences")
OTHER_NAMES = {
    "data.max_prompt_length": "it is called max_prompt_tokens",
    "data.max_completion_length": "it is called max_completion_tokens",
    "data.max_response_length": "it is called max_completion_tokens",
    "data.max_length": MAX_LENGTH,
    "data.max_seq_length": MAX_LENGTH,
    "data.cutoff_len": MAX_LENGTH,
    "data.truncation_mode": "set data.too_long to cut: prompts lose their beginning, responses their end",
    "data.truncation": "it is called too_long",
    "data.filter_overlong_prompts": "set data.too_long to drop",
}
"""Names that TRL and other tools have for these keys."""


class DataSection(Section):
    """`data`: where prompts and offline pairs come from; each value is a world's name, a file, a folder or a Hub id.

    Of a folder or a Hub dataset a split may be named, and of anything a part of its rows: `org/name[test_prefs]`,
    `pairs.jsonl[:600]`.
    """

    prompts: str | None = Field(None, description="training prompts; each round takes the next of a seeded order")
    preferences: str | None = Field(None, description="offline pairs for the `offline` source")
    demonstrations: str | None = Field(
        None, description="prompts with a response each, which the source `dmd` chooses over the policy's"
    )
    eval_prompts: str | None = Field(None, description="held-out prompts, never trained on")
    eval_preferences: str | None = Field(None, description="held-out offline pairs; a built-in world brings its own")
    criterion: str | None = Field(
        None,
        description="which of several judgements of a dataset decides: `helpful` or `safer` of PKU-SafeRLHF, an aspect "
        "or a score of UltraFeedback or HelpSteer",
    )
    pairs: Literal["best_worst", "all"] = Field(
        "best_worst",
        description="of a dataset's prompt with several scored answers: best against worst, or all pairs",
    )
    as_chat: Literal["auto", "always", "never"] = Field(
        "auto",
        description="make conversations of text, Alpaca rows and transcripts: where the policy has a chat template, "
        "always, or never; of a built-in world never",
    )
    system_prompt: str | None = Field(None, description="begins every conversation that has no system message")
    thinking: Literal["keep", "strip"] = Field(
        "keep", description="`<think>…</think>` and reasoning in a dataset's responses: keep, or strip"
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="longest prompt, in the tokens that the policy is sampled from; no limit when left out"
    )
    max_completion_tokens: int | None = Field(
        None,
        ge=1,
        description="longest response of a dataset, with the token that ends it; no limit when left out. What the "
        "policy samples is bounded by `generate.max_new_tokens`",
    )
    too_long: Literal["refuse", "drop", "cut"] = Field(
        "refuse",
        description="rows beyond these limits or the model's context: refuse the run and name them, leave them out, or "
        "cut text prompts at their beginning, conversations by whole turns, and responses at their end",
    )


def with_automatic_values(data: DataSection) -> DataSection:
    """An unset `data.eval_preferences` becomes the built-in world of `data.preferences`."""
    if data.eval_preferences is None and data.preferences in BUILT_IN_WORLDS:
        return data.model_copy(update={"eval_preferences": data.preferences})
    return data


def _scorer_needs_prompts(view: View) -> Iterator[RuleFault]:
    named = [name for name in ("evaluate.scorer", "evaluate.scorers") if view.get(name)]
    if named and view.get("data.eval_prompts") is None:
        what = f"data.eval_prompts is not set; {named[0]} scores completions of held-out prompts"
        yield rule_fault("data.eval_prompts", what, f"set data.eval_prompts, or leave {named[0]} out")


def _dataset_sources_need_preferences(view: View) -> Iterator[RuleFault]:
    for name, source in SOURCES.items():
        if source.needs == "preferences" and view.get(f"method.sources.{name}.mixing"):
            if view.get("data.preferences") is None:
                what = f"data.preferences is not set; the source {name} takes its pairs from it"
                yield rule_fault("data.preferences", what, f"set data.preferences, or remove method.sources.{name}")
            return


def _policy_sources_need_prompts(view: View) -> Iterator[RuleFault]:
    if view.get("data.prompts") is not None or view.get("data.demonstrations") is not None:
        return
    for name, source in SOURCES.items():
        if source.needs == "prompts" and view.get(f"method.sources.{name}.mixing"):
            what = f"data.prompts is not set; the source {name} samples the policy on it"
            yield rule_fault("data.prompts", what, f"set data.prompts, or remove method.sources.{name}")
            return


def _mixed_pairs_need_demonstrations(view: View) -> Iterator[RuleFault]:
    for name, source in SOURCES.items():
        if source.needs == "demonstrations" and view.get(f"method.sources.{name}.mixing"):
            if view.get("data.demonstrations") is None:
                what = f"data.demonstrations is not set; the source {name} takes the chosen responses from it"
                hint = f"set data.demonstrations, or remove method.sources.{name}"
                yield rule_fault("data.demonstrations", what, hint)
            return


def _reviews_are_described(view: View) -> Iterator[RuleFault]:
    if view.has("reviews"):
        return
    users = [
        key
        for key in (*_KEYS, "policy.sft.dataset", "reward.preferences", "reward.eval_preferences")
        if view.sound(key) == REVIEWS
    ]
    if users:
        what = f"{users[0]} is reviews, and the recipe has no section reviews"
        yield rule_fault(users[0], what, "add the section reviews with liked and disliked, a text file each")


def _files_exist(view: View) -> Iterator[RuleFault]:
    yield from missing_data(view, *_KEYS)


def _names_are_not_empty(view: View) -> Iterator[RuleFault]:
    yield from empty_texts(view, *_KEYS, "data.criterion", "data.system_prompt")


RULES: tuple[Rule, ...] = (
    _scorer_needs_prompts,
    _dataset_sources_need_preferences,
    _policy_sources_need_prompts,
    _mixed_pairs_need_demonstrations,
)
FILE_RULES: tuple[Rule, ...] = (_reviews_are_described, _files_exist, _names_are_not_empty)


def _demonstrated_prompts(recipe: Recipe) -> list[str]:
    samples = [name for name, source in recipe.method.sources.in_use().items() if source.policy_responses]
    if samples == ["dmd"] and recipe.data.prompts is not None:
        return [
            "data.prompts is set, and dmd alone samples the policy: prompts without a demonstration are sampled in "
            "vain; left out, the prompts are those of data.demonstrations"
        ]
    return []


WARNINGS = (_demonstrated_prompts,)
