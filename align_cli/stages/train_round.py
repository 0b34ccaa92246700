"""A round's training in memory: from its beginning or where a killed process left it, as often as the memory wants.

The stage `train` writes what comes of it. Which pairs there are `pools` says, and who stands in which batch, and how a
step is done, `training`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.artifacts.records import PairLogps, Preference
from align_cli.errors import DivergedError, OutOfMemoryError, counted
from align_cli.metrics.labels import winner_agreement
from align_cli.models.load import Policy
from align_cli.models.scoring import implicit_reward_margins
from align_cli.recipe import Recipe
from align_cli.stages.adopted import adopted_pairs
from align_cli.stages.base import PREFERENCES, REFERENCE_LOGPS, Artifact, Context, History
from align_cli.stages.pools import check_carriers, training_pools
from align_cli.stages.readable import too_long_words
from align_cli.stages.said_before import reference_digest, said_before
from align_cli.training.batches import Mixture, usage
from align_cli.training.checkpoints import TrainingState, read_moments, save_checkpoint, save_in_parts

if TYPE_CHECKING:
    from align_cli.training.known import RoundsReference
    from align_cli.training.parts import MomentsInParts
    from align_cli.training.trainer import PreferenceTrainer


class TrainOutcome(NamedTuple):
    """What training made.

    Args:
        state: where training stands now.
        steps: figures of every optimizer step.
        usage: how often pairs were used: `{source: {times: pairs}}`.
    """

    state: TrainingState
    steps: list[dict[str, float]]
    usage: dict[str, dict[str, int]]


class Trained(NamedTuple):
    """A round that was trained, in memory.

    Args:
        policy: the policy, trained.
        reference: the round's.
        state: where training stands now.
        outcome: what training made.
        logps: what the reference was asked in this round.
        agreement: how far the policy agreed with the round's labels before it was trained; None where nobody asked.
    """

    policy: Policy
    reference: Policy
    state: TrainingState
    outcome: TrainOutcome
    logps: list[PairLogps]
    agreement: dict[str, float] | None


def pair_rounds(recipe: Recipe, history: History, round_number: int) -> list[int]:
    """The rounds whose pairs a round trains on: those that are replayed, and its own."""
    earlier = range(max(1, round_number - recipe.train.replay_rounds), round_number) if recipe.is_online else ()
    # A run may have been forked from one whose first rounds sampled nothing.
    return [one for one in (*earlier, round_number) if history.holds(Artifact(one, PREFERENCES))]


def train_policy(
    trainer: PreferenceTrainer,
    recipe: Recipe,
    preferences: Sequence[Preference],
    start: TrainingState,
    optimizer_state: dict[str, Any] | MomentsInParts | None,
    keep: Callable[[TrainingState], None] | None = None,
    offline: Sequence[Preference] = (),
    reference: RoundsReference | None = None,
    initial: Policy | None = None,
) -> TrainOutcome:
    """Train one round in place.

    Args:
        trainer: holds the policy and the reference.
        recipe: the whole recipe.
        preferences: the round's own pairs, and offline ones besides the recipe's, tokenised.
        start: where training stands, between rounds or within one.
        optimizer_state: from a checkpoint; None goes on with the optimizer in memory.
        keep: called every `checkpoints.every_steps` with where training stands; None for never.
        offline: the recipe's offline pairs, as they are drawn.
        reference: how the reference is asked; None where it is in memory and nothing is known of what it says.
        initial: the initial policy, where the loss compares with it too.

    Raises:
        DataError: if a source with a share has no pairs, or a step none of those that carry a term.
    """
    sources = recipe.method.sources.in_use()
    earlier = range(1, start.round + 1) if recipe.method.schedule else ()
    mixture = Mixture(
        recipe.method.sources.shares(),
        recipe.global_batch_size,
        recipe.seed,
        per_round=[name for name, section in sources.items() if section.policy_responses],
        of_rounds={number: recipe.method.of_round(number).sources.shares() for number in earlier},
    )
    pools = training_pools(recipe, preferences, start.round, offline)
    batches = mixture.round_batches(pools, start.round + 1, recipe.train.steps_per_round)
    check_carriers(recipe, batches)
    if initial is not None:
        from align_cli.training.known import with_initial_logps

        batches = with_initial_logps(batches, initial, recipe.train.per_device_train_batch_size)
    keep_every = recipe.checkpoints.every_steps if keep else None
    state = trainer.train_round(batches, start, optimizer_state, keep or (lambda state: None), keep_every, reference)
    return TrainOutcome(state, trainer.step_records, usage(batches, list(mixture.shares)))


def train_in_memory(context: Context, *, is_replay: bool = False) -> Trained:
    """Train the policy that is loaded, from wherever it stands, as often as the memory wants.

    Raises:
        MemoryError: in a replay, whose forward passes have to be those of the first time.
    """
    loaded, number = context.loaded, context.round
    pairs: Sequence[Preference] = _round_pairs(context)
    within = _resumed(context)
    policy = loaded.policy_after(number - 1)
    reference, trainer = loaded.reference_for(number, in_name=True), loaded.trainer(number)
    digest = reference_digest(context.recipe, reference.version)
    said = said_before(context, REFERENCE_LOGPS, digest, itself=is_replay)
    _note_unshared(context, policy)
    adopted = adopted_pairs(pairs, policy, loaded.inputs.limits())
    if found := too_long_words(adopted.counts, len(pairs), "pairs"):
        context.note(f"note: round {number} train: {found}")
    agreement = None if is_replay else _agreement_with_policy(context, policy, adopted.preferences, within)
    start = loaded.state = replace(loaded.state, parent=loaded.state.parent if within else policy.version)

    def keep(state: TrainingState) -> None:
        kept = replace(state, parent=start.parent)
        if trainer.writes_parts:
            context.work.keep_parts(state.global_step, lambda folder: save_in_parts(folder, kept, trainer.write_parts))
            return
        context.work.keep_checkpoint(
            state.global_step, lambda folder: save_checkpoint(folder, policy, kept, trainer.optimizer_state())
        )

    while True:
        if within is None:
            policy.begin_round(number)
        optimizer_state = read_moments(within, start) if within else loaded.optimizer_state(number)
        try:
            with _asked(context, trainer, said, partial(_steps_begin, context, start)) as asked:
                keeps = keep if context.work.keeps_checkpoints else None
                outcome = _train(context, trainer, adopted.preferences, start, optimizer_state, keeps, asked)
            _check_finite(policy)
            break
        except MemoryError as error:
            if is_replay:
                raise
            context.note(f"round {number} train: {_halve_passes(trainer, error)}")
            context.work.drop_checkpoints()  # which were made with the forward passes of before
            loaded.halved(number, trainer.pairs_per_pass)
            if within or trainer.step_records:  # else the policy is as it was
                loaded.begin_again(number)
                start = loaded.state = replace(loaded.state, parent=policy.version)
            trainer, within = loaded.trainer(number), None
    state = replace(outcome.state, parent=start.parent)
    loaded.trained(number, state)
    logps = [PairLogps(digest, *pair) for pair in asked.found()]
    return Trained(policy, reference, state, outcome, logps, agreement)


def _round_pairs(context: Context) -> list[Preference]:
    """The pairs of the round and of those that are replayed, as they were written."""
    sources, pairs = context.recipe.method.sources.in_use(), []
    for number in pair_rounds(context.recipe, context.artifacts, context.round):
        read = context.artifacts.read(Artifact(number, PREFERENCES), Preference) or []
        # A run may have been forked from one with other sources, whose pairs are not replayed.
        pairs += [pair for pair in read if number == context.round or pair.source in sources]
    return pairs


def _resumed(context: Context) -> Path | None:
    """The checkpoint from within the round's training that a killed process left, taken up; None without one."""
    checkpoint = context.work.checkpoint()
    if checkpoint is None:
        return None
    context.loaded.reference_for(context.round, in_name=True)  # while the policy is that of the round before, or none
    if not context.loaded.go_on_within(context.round, checkpoint):
        return None
    done = len(context.loaded.state.steps or ())
    context.note(f"round {context.round} train: going on after step {done} of the round")
    return checkpoint


def _note_unshared(context: Context, policy: Policy) -> None:
    from align_cli.models.layout import shares_prompts

    recipe = context.recipe
    is_fast = recipe.train.kernel == "fast" and not recipe.method.uses_trl_loss
    if context.round == 1 and is_fast and not shares_prompts(policy.model):
        context.note(
            "note: train: this model does not keep to a mask and positions that it is given, or its attention takes "
            "none: a prompt is read once for each of its responses"
        )


def _agreement_with_policy(
    context: Context, policy: Policy, pairs: Sequence[Preference], within: Path | None
) -> dict[str, float] | None:
    """How often the policy's implicit reward, before it is trained, names the winner that a round's labels name.

    Measured once, though the process be killed; on `label.compared_pairs` pairs.
    """
    from align_cli.methods.preference import REFERENCE_FREE

    recipe = context.recipe
    asked = [pair for pair in pairs if pair.source == "dpr" and pair.round == context.round]
    asked = asked[: recipe.label.compared_pairs]
    if not asked or recipe.method.loss_types[0] in REFERENCE_FREE:
        return None
    with context.work.journal("agreement-with-policy") as journal:
        if not journal.rows and within is None:
            size = recipe.train.per_device_train_batch_size
            parts = [asked[start : start + size] for start in range(0, len(asked), size)]
            reference = context.loaded.reference_for(context.round)
            margins = [implicit_reward_margins(policy, reference, part, recipe.method.beta) for part in parts]
            prefers = [float(one > 0) if one else 0.5 for part in margins for one in part]
            found = winner_agreement([pair.label for pair in asked], prefers)
            journal.append([found._asdict() if found else {}])
        return journal.rows[0] or None if journal.rows else None


@contextmanager
def _asked(
    context: Context, trainer: PreferenceTrainer, said: Mapping[str, float], steps_begin: Callable[[], None]
) -> Iterator[RoundsReference]:
    """The reference as the round's training asks it, which knows what it said in other rounds."""
    from align_cli.training.known import RoundsReference

    loaded, number, progress = context.loaded, context.round, context.progress
    # Last digits are those of the forward passes that they were made in.
    with context.work.journal(f"reference-logps-{trainer.pairs_per_pass}") as journal:
        yield RoundsReference(
            said,
            journal,
            fetch=lambda: loaded.reference_for(number),
            let_go=loaded.let_go_of_reference,
            asks=lambda count: progress.start(count, "pairs"),
            asked=progress.advance,
            knows=steps_begin,
        )


def _steps_begin(context: Context, start: TrainingState) -> None:
    context.progress.start(context.recipe.train.steps_per_round, "steps")
    context.progress.found(len(start.steps or ()))


def _train(
    context: Context,
    trainer: PreferenceTrainer,
    pairs: Sequence[Preference],
    start: TrainingState,
    optimizer_state: dict[str, Any] | MomentsInParts | None,
    keep: Callable[[TrainingState], None] | None,
    reference: RoundsReference,
) -> TrainOutcome:
    train, done = context.recipe.train, len(start.steps or ())
    if train.schedule == "run":
        # Rounds that were taken over from another run may have had another number of steps.
        steps_before = start.global_step - done
        trainer.args.max_steps = steps_before + (context.recipe.rounds - start.round) * train.steps_per_round
    _steps_begin(context, start)
    trainer.on_step, trainer.on_record = context.progress.advance, context.on_record
    for step, record in enumerate(start.steps or (), start=1):
        context.on_record(step, record)
    offline = context.loaded.inputs.offline_pairs.preferences
    initial = context.loaded.another_policy(0) if context.recipe.method.initial_reference else None
    return train_policy(trainer, context.recipe, pairs, start, optimizer_state, keep, offline, reference, initial)


def _check_finite(policy: Policy) -> None:
    """A loss is of the weights before its step: what the last step made of them, no loss has seen."""
    if not all(bool(parameter.isfinite().all()) for parameter in policy.model.parameters()):
        raise DivergedError(
            "training diverged: the last step's weights are not finite",
            where="train",
            hint="a lower train.learning_rate needs another output_dir, --restart or --from; guards.non_finite can "
            "roll back by itself",
        )


def _halve_passes(trainer: PreferenceTrainer, error: MemoryError) -> str:
    """Cut each forward pass of training in half, at the same global batch; says so in words.

    Raises:
        OutOfMemoryError: if there is nothing left to cut.
    """
    if not trainer.halve_passes():
        raise OutOfMemoryError(
            f"out of memory: {error}",
            where="train",
            hint="one pair a forward pass is too much: lower generate.max_new_tokens, set "
            "train.gradient_checkpointing to true, or take a smaller model",
        ) from None
    pairs, batch = trainer.pairs_per_pass, trainer.args.per_device_train_batch_size
    return (
        f"out of memory; the round begins again with {counted(pairs, 'pair')} a forward pass and "
        f"{counted(batch // pairs, 'pass', 'passes')} a step, which is the same global batch. Set "
        "train.per_device_train_batch_size and train.gradient_accumulation_steps so next time"
    )
