"""A recipe's hardest parts first: two steps of every stage, with the real model and the longest rows.

What would fail after an hour, because memory, disk, a template or a labeler does not hold, fails here. It is an
ordinary run of one round, of the user's recipe with other numbers and a few rows of its data, in a folder that goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nlargest
from pathlib import Path
from typing import Any

from align_cli.artifacts.files import write_text
from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.scratch import ScratchFolder
from align_cli.labelers.verdicts import Pair, Verdicts
from align_cli.recipe import Recipe, load_recipe
from align_cli.run.folder import RunFolder
from align_cli.run.loaded import Loaded
from align_cli.run.loop import align_rounds
from align_cli.run.opening import Reporter, check_inputs
from align_cli.run.plan import plan_steps
from align_cli.run.results import Results
from align_cli.stages import stage_named
from align_cli.stages.longest import longest_rows, num_prompts

STEPS = 2
"""Of every stage: in the second, what the first has left is in memory too, as an optimizer's moments."""


def smoke(path: Path, overrides: Sequence[str], reporter: Reporter) -> list[dict[str, Any]]:
    """Run it, beside the recipe's own folder, and leave nothing behind.

    Args:
        path: the recipe's file.
        overrides: as for `load_recipe`.
        reporter: shown what happens.

    Returns:
        The run's events, with what each stage took.

    Raises:
        AlignError: for whatever the run itself would be refused for, or fails of.
    """
    recipe = load_recipe(path, overrides)
    beside = next(folder for folder in Path(recipe.output_dir).absolute().parents if folder.is_dir())
    with ScratchFolder(beside) as scratch:
        run = scratch / "run"
        rows = [f"{key}={_quoted(file)}" for key, file in _longest_rows(recipe, scratch, reporter).items()]
        small = load_recipe(path, [*overrides, f"output_dir={_quoted(run)}", *_two_steps(recipe), *rows])
        align_rounds(small, reporter, asker=_say_anything)
        reporter.note("every stage went through two steps; nothing of it is kept")
        return RunFolder(run).ledger.events()


def _two_steps(recipe: Recipe) -> list[str]:
    """One round with two steps of each stage, as overrides; nobody outside is told of it, and nothing stops it.

    No pair is left out, since two steps have few: none might be left that a whole round has.
    """
    generate, train = recipe.generate, recipe.train
    changed: dict[str, Any] = {
        "rounds": 1,
        "generate.prompts_per_round": min(generate.prompts_per_round, num_prompts(recipe, STEPS)),
        "train.steps_per_round": min(train.steps_per_round, STEPS),
        "train.report_to": "none",
        "evaluate.num_prompts": min(recipe.evaluate.num_prompts, generate.batch_size),  # there are two evaluations
        "checkpoints.every_steps": "null",
        "data.as_chat": "never",  # rows are what they have become
        **dict.fromkeys(("label.equal_texts", "label.empty_texts"), "keep"),  # of a few, all may be such
        "label.min_margin": 0,
        "guards": "{kl: null, length: null, eos_rate: null, stuck_loss: null, win_rate: null, reward_gap: null}",
    }
    if not recipe.method.uses_trl_loss:  # which takes no ties
        changed["label.ties"] = "keep"
    if recipe.policy.sft is not None:
        changed["policy.sft.max_steps"] = min(recipe.policy.sft.max_steps, STEPS)
    if recipe.reward is not None and recipe.reward.head == "trained":
        changed |= {"reward.num_train_epochs": "null", "reward.max_steps": STEPS}
    return [f"{key}={value}" for key, value in changed.items()]


def _longest_rows(recipe: Recipe, scratch: Path, reporter: Reporter) -> dict[str, Path]:
    """Files with the longest rows that the stages read, by key; all rows are checked, as a run would."""
    plan = plan_steps(recipe)
    loaded = Loaded(recipe, Results(recipe, RunFolder(recipe.output_dir)), reporter.note)
    check_inputs(plan, loaded)
    due = [stage_named(name) for name in dict.fromkeys(step.stage for step in plan)]
    files = {}
    for key, rows in (longest_rows(recipe, loaded.inputs, due, STEPS) | _longest_pairs(recipe, loaded)).items():
        files[key] = scratch / f"{key}.jsonl"
        write_text(files[key], "".join(f"{to_json(row)}\n" for row in rows))
    return files


def _say_anything(pairs: Sequence[Pair], verdicts: Verdicts) -> None:
    """Nobody is asked for what is not kept."""
    for pair in pairs:
        verdicts.keep(pair, "nobody", "first", left="first")


def _longest_pairs(recipe: Recipe, loaded: Loaded) -> dict[str, list[Mapping[str, Any]]]:
    """Of a reward model's pairs, which the policy does not read, those with the most characters."""
    if recipe.reward is None:
        return {}
    count = STEPS * recipe.reward.global_batch_size
    pairs = {"reward.preferences": loaded.inputs.reward_rows, "reward.eval_preferences": loaded.inputs.reward_eval_rows}
    found = {key: nlargest(count, read.rows, key=lambda row: len(to_json(row))) for key, read in pairs.items()}
    return {key: rows or found["reward.preferences"] for key, rows in found.items()}


def _quoted(path: Path) -> str:
    """As YAML has it, whatever is in it."""
    return to_json(str(path))
