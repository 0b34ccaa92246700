"""A recipe made small: one round with a few steps of each stage, on a few of its rows, in a folder that goes.

What is tried out first (`smoke`) and what is measured (`measure`) are such runs, of the user's recipe with other
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nlargest
from pathlib import Path
from typing import Any

from align_cli.artifacts.files import folder_there, write_text
from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.scratch import ScratchFolder
from align_cli.labelers.verdicts import Pair, Verdicts
from align_cli.recipe import Recipe
from align_cli.run.loaded import Loaded
from align_cli.run.plan import Step
from align_cli.stages import stage_named
from align_cli.stages.base import Stage
from align_cli.stages.longest import num_prompts

FilesRows = Mapping[str, Sequence[Mapping[str, Any]]]


def scratch_beside(recipe: Recipe) -> ScratchFolder:
    """A folder on the disk that the recipe's run will be on."""
    return ScratchFolder(folder_there(Path(recipe.output_dir).absolute().parent))


def stages_of(plan: Sequence[Step]) -> list[Stage]:
    """The stages of a plan, each once, in the order in which they come."""
    return [stage_named(name) for name in dict.fromkeys(step.stage for step in plan)]


def small_overrides(recipe: Recipe, num_steps: int) -> list[str]:
    """One round with so many steps of each stage, as overrides; nobody outside is told of it, and nothing stops it.

    No pair is left out, since few steps have few: none might be left that a whole round has.
    """
    generate, train = recipe.generate, recipe.train
    changed: dict[str, Any] = {
        "rounds": 1,
        "generate.prompts_per_round": min(generate.prompts_per_round, num_prompts(recipe, num_steps)),
        "train.steps_per_round": min(train.steps_per_round, num_steps),
        "train.report_to": "none",
        "evaluate.num_prompts": min(recipe.evaluate.num_prompts, generate.batch_size),  # there are two evaluations
        "checkpoints.every_steps": "null",
        "data.as_chat": "never",  # rows are what they have become
        **dict.fromkeys(("label.equal_texts", "label.empty_texts"), "keep"),  # of a few, all may be such
        "label.min_margin": 0,
        "guards": "{kl: null, length: null, eos_rate: null, stuck_loss: null, win_rate: null, reward_gap: null}",
    }
    if generate.rounds_ahead:  # weights stay; one stage comes after the other, as each is looked at by itself
        changed |= {"generate.rounds_ahead": 0, "method.importance_weight_cap": recipe.method.importance_weight_cap}
    if not recipe.method.uses_trl_loss:  # which takes no ties
        changed["label.ties"] = "keep"
    if recipe.policy.sft is not None:
        changed["policy.sft.max_steps"] = min(recipe.policy.sft.max_steps, num_steps)
    if recipe.reward is not None and recipe.reward.head == "trained":
        changed |= {"reward.num_train_epochs": "null", "reward.max_steps": num_steps}
    return [f"{key}={value}" for key, value in changed.items()]


def rows_in_files(rows: FilesRows, scratch: Path) -> list[str]:
    """Overrides that name files with these rows, by key, which are written."""
    files = {key: scratch / f"{key}.jsonl" for key in rows}
    for key, file in files.items():
        write_text(file, "".join(f"{to_json(row)}\n" for row in rows[key]))
    return [f"{key}={quoted(file)}" for key, file in files.items()]


def longest_reward_pairs(recipe: Recipe, loaded: Loaded, num_steps: int) -> FilesRows:
    """Of a reward model's pairs, which the policy does not read, those with the most characters."""
    if recipe.reward is None:
        return {}
    count = num_steps * recipe.reward.global_batch_size
    pairs = {"reward.preferences": loaded.inputs.reward_rows, "reward.eval_preferences": loaded.inputs.reward_eval_rows}
    found = {key: nlargest(count, read.rows, key=lambda row: len(to_json(row))) for key, read in pairs.items()}
    return {key: rows or found["reward.preferences"] for key, rows in found.items()}


def say_anything(pairs: Sequence[Pair], verdicts: Verdicts) -> None:
    """Nobody is asked for what is not kept."""
    for pair in pairs:
        verdicts.keep(pair, "nobody", "first", left="first")


def quoted(path: Path) -> str:
    """As YAML has it, whatever is in it."""
    return to_json(str(path))
