"""The train stage: pairs and a policy in, a better policy out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from align_cli.errors import DivergedError, OutOfMemoryError, RunError, all_at_once
from align_cli.recipe import Recipe
from align_cli.stages.base import (
    CHECKPOINT,
    POLICY_KEYS,
    PREFERENCES,
    READING_KEYS,
    REFERENCE_LOGPS,
    TRAINING,
    Amounts,
    Artifact,
    Context,
    Done,
    History,
    Loaded,
    Stage,
    policy_artifact,
)
from align_cli.stages.pairing.offline import check_labels
from align_cli.stages.readable import RowsToRead
from align_cli.stages.said_before import artifacts_that_asked
from align_cli.stages.train_amounts import train_amounts
from align_cli.stages.train_round import pair_rounds, train_in_memory
from align_cli.tracking.installed import check_installed
from align_cli.training.checkpoints import save_checkpoint, unsaved_version

if TYPE_CHECKING:
    from align_cli.stages.inputs import Inputs


class Train(Stage):
    """Trains the policy on a round's pairs, those that are replayed, and the offline share."""

    name = "train"
    writes = (CHECKPOINT, TRAINING, REFERENCE_LOGPS)
    memory_remedy = (
        "lower train.per_device_train_batch_size, set train.gradient_checkpointing to true, or take a smaller model"
    )

    def is_due(self, recipe: Recipe, round_number: int) -> bool:
        return round_number > 0

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        return (*POLICY_KEYS, *READING_KEYS, "data.preferences", "label", "method", "train")

    def reads(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        pairs = [Artifact(number, PREFERENCES) for number in pair_rounds(recipe, history, round_number)]
        return [policy_artifact(history, history.base(round_number - 1)), *pairs]

    def takes_over(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        return artifacts_that_asked(recipe, history, round_number, REFERENCE_LOGPS)

    def check(self, recipe: Recipe, loaded: Loaded) -> None:
        from align_cli.training.buildable import check_adapters, check_train_keys

        rows = loaded.inputs.offline_rows.rows if loaded.inputs.uses_offline_pairs else []
        all_at_once(
            partial(check_installed, recipe),
            partial(check_train_keys, recipe),
            partial(check_adapters, recipe, lambda: loaded.inputs.policy),
            partial(check_labels, recipe, rows),
        )

    def to_read(self, recipe: Recipe, inputs: Inputs) -> list[RowsToRead]:
        rows = inputs.offline_rows.rows if inputs.uses_offline_pairs else []
        return [RowsToRead("data.preferences", rows, lambda: inputs.offline_pairs.counts)]

    def amounts(self, recipe: Recipe, inputs: Inputs, round_number: int) -> Amounts:
        return train_amounts(recipe, inputs, round_number)

    def carry_out(self, context: Context) -> Done:
        """Train from the round's beginning, or from the checkpoint within it that a killed process left."""
        recipe, loaded, number = context.recipe, context.loaded, context.round
        try:
            trained = train_in_memory(context)
        except DivergedError as error:
            return _give_up(context, error)
        policy, state, outcome = trained.policy, trained.state, trained.outcome
        if context.artifacts.keeps_policy:
            checkpoint, optimizer = context.artifacts.place(CHECKPOINT), loaded.trainer(number).optimizer_state()
            policy.version = save_checkpoint(checkpoint, policy, state, optimizer)
        else:
            policy.version = unsaved_version(policy)
        context.artifacts.write(TRAINING, outcome.steps)
        if trained.logps:
            context.artifacts.write(REFERENCE_LOGPS, trained.logps)
        # A learning rate whose schedule spans the run is another one when rounds are raised.
        is_scheduled = recipe.train.schedule == "run" and not context.artifacts.keeps_policy
        return Done(
            {
                "reference": trained.reference.version,
                "global_batch_size": recipe.global_batch_size,
                "offline": loaded.inputs.offline_pairs.counts,
                "usage": outcome.usage,
                "clipped_steps": _num_clipped(outcome.steps, loaded.trainer(number).args.max_grad_norm),
                "last_step": outcome.steps[-1],
                **({"health": {"agreement": {"labels and policy": trained.agreement}}} if trained.agreement else {}),
            },
            planned_rounds=recipe.rounds if is_scheduled else None,
        )

    def replay(self, context: Context) -> None:
        try:
            trained = train_in_memory(context, is_replay=True)
        except MemoryError as error:
            raise OutOfMemoryError(
                f"out of memory while round {context.round}, which left no checkpoint, was trained again: {error}",
                where="checkpoints.every_rounds",
                hint="run the same command again with as much memory as the round had",
            ) from None
        trained.policy.version = unsaved_version(trained.policy)
        if not context.artifacts.is_same(TRAINING, trained.outcome.steps):
            raise RunError(
                f"round {context.round}, which left no checkpoint, was trained again, and its steps have other figures "
                "than those that were written",
                where="checkpoints.every_rounds",
                hint="go on with the packages, the thread count and the machine that the run was begun with; or fork "
                "from a round that has a checkpoint (--from)",
            )


def _give_up(context: Context, error: DivergedError) -> Done:
    """A round whose training diverged ends with the best round's policy, if the recipe says so."""
    loaded, number = context.loaded, context.round
    policy, trainer = loaded.policy_after(number - 1), loaded.trainer(number)
    stands = replace(trainer.state_now(), round=number, parent=loaded.state.parent)
    base = loaded.fall_back(number)
    if base is None:
        raise error
    save_checkpoint(context.artifacts.place(CHECKPOINT), policy, stands, None)
    context.artifacts.write(TRAINING, list(trainer.step_records))
    loaded.trained(number, stands)
    what = error.faults[0].what
    context.note(f"guard non_finite, round {number}: {what}; the round ends with the policy of round {base}")
    return Done({"diverged": what, "policy_of_round": base}, continues_from=base)


def _num_clipped(steps: Sequence[dict[str, float]], max_grad_norm: float | None) -> int:
    """The steps whose gradient was scaled down to the largest norm that is allowed; 0 or None allows any."""
    return sum(step["grad_norm"] > max_grad_norm for step in steps) if max_grad_norm else 0
