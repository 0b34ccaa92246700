"""The stage before the first round: make the initial policy, where the recipe does not take one as it is.

Three things can be asked for: a world's tiny model, a new model from scratch, a supervised warm start of any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from align_cli.artifacts.scratch import ScratchFolder
from align_cli.errors import OutOfMemoryError, all_at_once
from align_cli.models.load import Policy, load_as
from align_cli.models.of_recipe import load_recipe_policy
from align_cli.playground import model as playground_model
from align_cli.recipe import Recipe
from align_cli.recipe.data_names import PLAYGROUND
from align_cli.seeds import derive_seed
from align_cli.stages.base import (
    CHECKPOINT,
    POLICY_KEYS,
    READING_KEYS,
    TRAINING,
    Amounts,
    Artifact,
    Context,
    Done,
    ForkKeys,
    History,
    Loaded,
    Progress,
    Stage,
)
from align_cli.stages.inputs import Inputs, learnt_texts
from align_cli.stages.readable import RowsToRead
from align_cli.training.checkpoints import TrainingState, read_optimizer_state, read_training_state, save_checkpoint


class WarmStart(Stage):
    """Makes the initial policy."""

    name = "sft"
    writes = (CHECKPOINT, TRAINING)
    memory_remedy = "lower policy.sft.per_device_train_batch_size, or take a smaller model"

    def is_due(self, recipe: Recipe, round_number: int) -> bool:
        return round_number == 0 and makes_policy(recipe)

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        return (*POLICY_KEYS, *READING_KEYS)

    def reads(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        return []

    def needs(self, recipe: Recipe) -> tuple[str, ...]:
        return ()

    def check(self, recipe: Recipe, loaded: Loaded) -> None:
        from align_cli.training.buildable import check_sft_keys

        all_at_once(lambda: loaded.inputs.sft_rows, partial(check_sft_keys, recipe))

    def to_read(self, recipe: Recipe, inputs: Inputs) -> list[RowsToRead]:
        return [RowsToRead("policy.sft.dataset", inputs.sft_rows, lambda: inputs.sft_demonstrations.counts)]

    def amounts(self, recipe: Recipe, inputs: Inputs, round_number: int) -> Amounts:
        section = recipe.policy.sft
        if section is None:
            return Amounts()
        lengths = inputs.sft_demonstrations.rows.lengths
        rows = section.max_steps * section.per_device_train_batch_size
        return Amounts(steps=section.max_steps, tokens=round(rows * fmean(lengths)))

    def fork_keys(self, recipe: Recipe) -> ForkKeys:
        """A fork keeps the initial policy."""
        return ForkKeys((*POLICY_KEYS, *READING_KEYS), ("policy.reference", "policy.lora.between_rounds", "seed"))

    def carry_out(self, context: Context) -> Done:
        def keep(policy: Policy, state: TrainingState, optimizer: Any) -> None:
            context.work.keep_checkpoint(
                state.global_step, lambda folder: save_checkpoint(folder, policy, state, optimizer)
            )

        work = WarmStartWork(context.work.checkpoint(), keep)
        policy, losses = make_initial_policy(context.recipe, context.loaded.inputs, context.progress, work)
        policy.version = save_checkpoint(context.artifacts.place(CHECKPOINT), policy, context.loaded.state, None)
        context.artifacts.write(TRAINING, [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)])
        context.loaded.made(policy)
        return Done({"steps": len(losses), "final_loss": losses[-1] if losses else None})


class WarmStartWork(NamedTuple):
    """Work in progress of a warm start.

    Args:
        begun: the checkpoint that a killed process left; None begins anew.
        keep: takes in a checkpoint: the policy, where training stands, the optimizer.
    """

    begun: Path | None = None
    keep: Callable[[Policy, TrainingState, Any], None] = lambda *_: None


def makes_policy(recipe: Recipe) -> bool:
    """Whether the initial policy has to be made; otherwise it is a model that exists already.

    A new model, `policy.from_scratch`, is never without a warm start.
    """
    return recipe.policy.sft is not None or recipe.policy.model_name_or_path == PLAYGROUND


def make_initial_policy(
    recipe: Recipe, inputs: Inputs, progress: Progress, work: WarmStartWork | None = None
) -> tuple[Policy, list[float]]:
    """The initial policy, and the losses of its warm start.

    Args:
        recipe: the whole recipe.
        inputs: what the warm start learns, and a new model its tokenizer from.
        progress: told of every optimizer step.
        work: where to go on from and where to keep checkpoints; None begins and keeps none.

    Returns:
        The policy, in memory, and the loss of every step in nats a token (empty without a warm start).
    """
    with ScratchFolder() as scratch:
        folder = scratch / "model"
        work = work or WarmStartWork()
        policy = load_recipe_policy(recipe, work.begun) if work.begun else _untrained_policy(recipe, inputs, folder)
        losses = _warm_start(policy, recipe, inputs, scratch / "trainer", progress, work)
    return policy, losses


def _untrained_policy(recipe: Recipe, inputs: Inputs, folder: Path) -> Policy:
    settings = recipe.policy
    seed = derive_seed(recipe.seed, "model") % 2**32
    if settings.from_scratch is not None:
        new = settings.from_scratch.model_dump()
        playground_model.make_model_from_scratch(folder, learnt_texts(inputs.sft_rows), seed=seed, **new)
        return load_as(settings, folder)
    if settings.model_name_or_path == PLAYGROUND:
        playground_model.make_policy(folder, seed, recipe.playground.architecture)
        return load_as(settings, folder)
    return load_recipe_policy(recipe)


def _warm_start(
    policy: Policy, recipe: Recipe, inputs: Inputs, scratch: Path, progress: Progress, work: WarmStartWork
) -> list[float]:
    section = recipe.policy.sft
    if section is None:
        return []
    from align_cli.training.sft import MeasuredDemonstrations, SupervisedTrainer

    class Demonstrations(MeasuredDemonstrations):
        rows = inputs.sft_demonstrations.rows
        lengths = rows.lengths

        def __len__(self) -> int:
            return len(self.rows)

        def item(self, index: int) -> tuple[list[int], list[int]]:
            read = self.rows[index]
            return read.prompt_ids, read.answer_ids["completion"]

    begun = read_training_state(work.begun) if work.begun else None
    start = begun or TrainingState(round=0, global_step=0, parent=None)
    progress.start(section.max_steps, "steps")
    if begun:
        progress.found(start.global_step)
    trainer = SupervisedTrainer(
        policy, section, seed=recipe.seed, scratch_dir=scratch, on_step=lambda: progress.advance()
    )
    try:
        return trainer.train_on(
            Demonstrations(),
            start,
            read_optimizer_state(work.begun, start) if work.begun else None,
            lambda state: work.keep(policy, state, trainer.optimizer),
            recipe.checkpoints.every_steps,
        )
    except MemoryError as error:
        raise OutOfMemoryError(
            f"out of memory: {error}",
            where="policy.sft",
            hint="lower policy.sft.per_device_train_batch_size, or take a smaller model",
        ) from None
