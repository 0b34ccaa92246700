"""The longest rows that stages read: what a run's memory is decided by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nlargest
from typing import Any

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import TemplateArguments
from align_cli.models.text import PolicyText, completion_token_ids, prompt_token_ids
from align_cli.recipe import Recipe
from align_cli.stages.base import Stage
from align_cli.stages.inputs import Inputs
from align_cli.stages.sft import unloaded_initial_policy

Row = Mapping[str, Any]

SFT = "policy.sft.dataset"

CANDIDATES = 8
"""So many times the rows that are wanted, the longest in characters, are measured in tokens."""


def longest_rows(recipe: Recipe, inputs: Inputs, due: Sequence[Stage], num_steps: int) -> dict[str, list[Row]]:
    """The rows of every key with the most tokens in the policy's eyes, the longest first.

    Args:
        recipe: the whole recipe.
        inputs: its rows.
        due: the stages that read them.
        num_steps: steps of each stage that they are to fill.

    Returns:
        Rows by key. What a new model is made from is left out: of fewer rows it would be another model.
    """
    policy = unloaded_initial_policy(recipe, inputs)
    found = {}
    for wanted in (rows for stage in due for rows in stage.to_read(recipe, inputs)):
        is_material = wanted.key == SFT and recipe.policy.from_scratch is not None
        if wanted.rows and not is_material:
            found[wanted.key] = _longest(wanted.rows, _num_rows(recipe, wanted.key, num_steps), policy)
    return found


def num_prompts(recipe: Recipe, num_steps: int) -> int:
    """Prompts whose responses fill so many batches of sampling."""
    return max(1, num_steps * recipe.generate.batch_size // recipe.generate.num_generations)


def _num_rows(recipe: Recipe, key: str, num_steps: int) -> int:
    if key == SFT and recipe.policy.sft is not None:
        return num_steps * recipe.policy.sft.per_device_train_batch_size
    if key in ("data.prompts", "data.demonstrations"):
        return num_prompts(recipe, num_steps)
    return num_steps * (recipe.global_batch_size if key == "data.preferences" else recipe.generate.batch_size)


def _longest(rows: Sequence[Row], count: int, policy: PolicyText) -> list[Row]:
    candidates = nlargest(CANDIDATES * count, rows, key=lambda row: len(to_json(row)))
    return nlargest(count, candidates, key=lambda row: _num_tokens(row, policy))


def _num_tokens(row: Row, policy: PolicyText) -> int:
    """Of the prompt and the longest of its responses."""
    arguments, tokenizer = TemplateArguments.of_row(row), policy.tokenizer
    prompt, prompt_ids = row["prompt"], prompt_token_ids(tokenizer, row["prompt"], arguments)
    responses = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
    lengths = [
        len(completion_token_ids(tokenizer, prompt, prompt_ids, response, policy.eos_token_ids, arguments))
        for response in responses
    ]
    return len(prompt_ids) + max(lengths, default=0)
