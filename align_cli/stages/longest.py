"""A few of the rows that stages read: the longest, which decide a run's memory, or any, which tell its time."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import islice, zip_longest
from typing import Any

from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import TemplateArguments
from align_cli.data.rows import RESPONSES
from align_cli.recipe import Recipe
from align_cli.seeds import compact_order
from align_cli.stages.base import Stage
from align_cli.stages.inputs import Inputs
from align_cli.stages.lengths import ReadRow, read_row
from align_cli.stages.rows_of_recipe import Rows

SFT, PROMPTS = "policy.sft.dataset", ("data.prompts", "data.demonstrations", "data.eval_prompts")

CANDIDATES = 8
"""So many times the rows that are wanted, the longest in characters, are measured in tokens."""


def longest_rows(
    recipe: Recipe, inputs: Inputs, due: Sequence[Stage], num_steps: int
) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of every key with the most tokens in the policy's eyes, the longest first.

    Args:
        recipe: the whole recipe.
        inputs: its rows, all of which the policy can read.
        due: the stages that read them.
        num_steps: steps of each stage that they are to fill.

    Returns:
        Rows by key, cut where the recipe says so. What a new model is made from is left out: of fewer rows it would be
        another model. Where demonstrations have prompts apart from them, every other prompt is one of theirs.
    """
    found = {}
    for key, rows in _rows_to_read(recipe, inputs, due).items():
        count = _num_rows(recipe, key, num_steps)
        candidates = islice(_by_characters(key, rows, recipe, inputs), CANDIDATES * count)
        longest = nlargest(count, candidates, key=lambda read: read.num_tokens)
        if longest:
            found[key] = [read.row for read in longest]
    return _with_shown(found)


def any_rows(
    recipe: Recipe, inputs: Inputs, due: Sequence[Stage], num_steps: int
) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of every key in a seeded order, as a run draws them; see `longest_rows`.

    A held-out pair is one of a single batch: they are all asked about in every round, and need not be more to be timed.
    """
    found = {}
    for key, rows in _rows_to_read(recipe, inputs, due).items():
        count = _num_rows(recipe, key, 1 if key == "data.eval_preferences" else num_steps)
        order = map(rows.__getitem__, compact_order(len(rows), recipe.seed, key))
        if drawn := [read.row for read in islice(_fitting(key, order, recipe, inputs), count)]:
            found[key] = drawn
    return _with_shown(found)


def _rows_to_read(recipe: Recipe, inputs: Inputs, due: Sequence[Stage]) -> dict[str, Rows]:
    every = {wanted.key: wanted.rows for stage in due for wanted in stage.to_read(recipe, inputs) if wanted.rows}
    if recipe.policy.from_scratch is not None:
        every.pop(SFT, None)
    if every.get("data.prompts") and every.get("data.demonstrations"):
        asked = {_prompt_of(row) for row in every["data.prompts"]}
        every["data.demonstrations"] = [row for row in every["data.demonstrations"] if _prompt_of(row) in asked]
    return every


def _with_shown(found: dict[str, list[Mapping[str, Any]]]) -> dict[str, list[Mapping[str, Any]]]:
    """The same, where each other prompt has a demonstration, if there are any."""
    if "data.prompts" in found and "data.demonstrations" in found:
        found["data.prompts"] = _in_turn(found["data.demonstrations"], found["data.prompts"])
    return found


def _in_turn(shown: Sequence[Mapping[str, Any]], prompts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """As many prompts as there are, each other one from what is shown, as long as that lasts."""
    asked = [{name: value for name, value in row.items() if name != "completion"} for row in shown]
    both = [row for pair in zip_longest(asked, prompts) for row in pair if row is not None]
    found: dict[str, Mapping[str, Any]] = {}
    for row in both:
        found.setdefault(_prompt_of(row), row)
    return list(found.values())[: len(prompts)]


def _prompt_of(row: Mapping[str, Any]) -> str:
    return to_json([row["prompt"], *TemplateArguments.of_row(row)])


def num_prompts(recipe: Recipe, num_steps: int) -> int:
    """Prompts whose responses fill so many batches of sampling."""
    return max(1, num_steps * recipe.generate.batch_size // recipe.generate.num_generations)


def _num_rows(recipe: Recipe, key: str, num_steps: int) -> int:
    if key == SFT and recipe.policy.sft is not None:
        return num_steps * recipe.policy.sft.per_device_train_batch_size
    if key in ("data.prompts", "data.demonstrations"):
        return num_prompts(recipe, num_steps)
    return num_steps * (recipe.global_batch_size if key == "data.preferences" else recipe.generate.batch_size)


def _by_characters(key: str, rows: Sequence[Mapping[str, Any]], recipe: Recipe, inputs: Inputs) -> Iterator[ReadRow]:
    """The rows that are not left out for their length, those with the most characters first."""
    characters = array("I", (len(to_json(row)) for row in rows))
    order = sorted(range(len(rows)), key=characters.__getitem__, reverse=True)
    return _fitting(key, map(rows.__getitem__, order), recipe, inputs)


def _fitting(key: str, rows: Iterable[Mapping[str, Any]], recipe: Recipe, inputs: Inputs) -> Iterator[ReadRow]:
    """The rows that are not left out for their length, in the policy's tokens."""
    limits = inputs.limits(recipe.generate.max_new_tokens if key in PROMPTS else 0)
    for row in rows:
        answers = [name for name in RESPONSES if name in row]
        read = read_row(row, answers, inputs.policy, limits, may_lack_prompt=True)
        if not limits.exceeded_by(read):
            yield read
