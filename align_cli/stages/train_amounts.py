"""How much training has to do in a round: steps, uses of pairs, their tokens, and what the reference is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from align_cli.models.text import prompt_token_ids
from align_cli.recipe import Recipe
from align_cli.recipe.sections.sources import SourceSection, num_pairs
from align_cli.stages.base import Amounts
from align_cli.stages.generate import PromptDraw

if TYPE_CHECKING:
    from align_cli.stages.inputs import Inputs

LOOKED_AT = 200
"""Rows, the first of a dataset, whose mean length is taken for all."""


def train_amounts(recipe: Recipe, inputs: Inputs, round_number: int) -> Amounts:
    """What a round's steps come to.

    Args:
        recipe: the whole recipe.
        inputs: its rows.
        round_number: from 1.
    """
    steps, uses = recipe.train.steps_per_round, _uses(recipe)
    tokens = sum(count * _tokens_of_a_pair(recipe, inputs, name) for name, count in uses.items())
    asked = sum(_asked(recipe, inputs, name, count, round_number) for name, count in uses.items())
    return Amounts(steps=steps, pairs=steps * recipe.global_batch_size, tokens=round(tokens), asked=asked)


def _uses(recipe: Recipe) -> dict[str, int]:
    """Uses of pairs in a round's steps, by source."""
    pairs = recipe.train.steps_per_round * recipe.global_batch_size
    return {name: round(section.mixing * pairs) for name, section in recipe.method.sources.in_use().items()}


def _tokens_of_a_pair(recipe: Recipe, inputs: Inputs, name: str) -> float:
    """Of a dataset the mean, of what is sampled the most that it may be."""
    if recipe.method.sources.in_use()[name].policy_responses:
        draws = (PromptDraw.of_row(inputs.prompts_to_sample.rows, index) for index in _some(inputs.prompts))
        prompts = (prompt_token_ids(inputs.policy.tokenizer, draw.prompt, draw.arguments) for draw in draws)
        return fmean(map(len, prompts)) + 2 * recipe.generate.max_new_tokens
    pairs = (inputs.offline_pairs.preferences[index] for index in _some(inputs.offline_pairs.preferences))
    return fmean(sum(len(ids or ()) for ids in (one.prompt_ids, one.chosen_ids, one.rejected_ids)) for one in pairs)


def _some(rows: Sequence[Any]) -> range:
    return range(min(len(rows), LOOKED_AT))


def _asked(recipe: Recipe, inputs: Inputs, name: str, uses: int, round_number: int) -> int:
    """Pairs of a source that the reference has not spoken of before; see `training.known`."""
    section = recipe.method.sources.in_use()[name]
    if not _needs_reference(recipe, section):
        return 0
    if section.policy_responses:
        return min(uses, num_pairs(recipe, name))
    there = len(inputs.offline_pairs.preferences)
    if recipe.policy.reference == "previous":
        return min(uses, there)
    return min(uses * round_number, there) - min(uses * (round_number - 1), there)


def _needs_reference(recipe: Recipe, section: SourceSection) -> bool:
    """Whether it is asked beforehand: where a response carries the KL, that tells it too."""
    from align_cli.methods.preference import REFERENCE_FREE

    method = recipe.method
    if method.uses_trl_loss or (method.loss_types[0] in REFERENCE_FREE and not method.optimism.coefficient):
        return False
    carries_all = method.kl.on == "all" or (section.policy_responses and not section.dataset_responses)
    return not (method.kl.coefficient and carries_all)
