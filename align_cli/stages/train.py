"""The train stage: pairs and a policy in, a better policy out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.artifacts.records import PairLogps, Preference
from align_cli.errors import DivergedError, OutOfMemoryError, RunError, all_at_once, counted
from align_cli.metrics.labels import agreement
from align_cli.models.load import Policy
from align_cli.models.scoring import implicit_reward_margins
from align_cli.recipe import Recipe
from align_cli.stages.adopted import adopted_pairs
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
from align_cli.stages.pools import check_carriers, training_pools
from align_cli.stages.readable import RowsToRead, too_long_words
from align_cli.stages.said_before import artifacts_that_asked, reference_digest, said_before
from align_cli.stages.train_amounts import train_amounts
from align_cli.tracking.installed import check_installed
from align_cli.training.batches import Mixture, usage
from align_cli.training.checkpoints import (
    TrainingState,
    read_moments,
    save_checkpoint,
    save_in_parts,
    unsaved_version,
)

if TYPE_CHECKING:
    from align_cli.stages.inputs import Inputs
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
            trained = _train_in_memory(context)
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
            trained = _train_in_memory(context, is_replay=True)
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


class _Trained(NamedTuple):
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


def _train_in_memory(context: Context, *, is_replay: bool = False) -> _Trained:
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
    return _Trained(policy, reference, state, outcome, logps, agreement)


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
            found = agreement([pair.label for pair in asked], prefers)
            journal.append([found._asdict() if found else {}])
        return journal.rows[0] or None if journal.rows else None


def _note_unshared(context: Context, policy: Policy) -> None:
    from align_cli.models.layout import shares_prompts

    recipe = context.recipe
    is_fast = recipe.train.kernel == "fast" and not recipe.method.uses_trl_loss
    if context.round == 1 and is_fast and not shares_prompts(policy.model):
        context.note(
            "note: train: this model does not keep to a mask and positions that it is given, or its attention takes "
            "none: a prompt is read once for each of its responses"
        )


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


def _num_clipped(steps: Sequence[dict[str, float]], max_grad_norm: float | None) -> int:
    """The steps whose gradient was scaled down to the largest norm that is allowed; 0 or None allows any."""
    return sum(step["grad_norm"] > max_grad_norm for step in steps) if max_grad_norm else 0


def _check_finite(policy: Policy) -> None:
    """A loss is of the weights before its step: what the last step made of them, no loss has seen."""
    if not all(bool(parameter.isfinite().all()) for parameter in policy.model.parameters()):
        raise DivergedError(
            "training diverged: the last step's weights are not finite",
            where="train",
            hint="a lower train.learning_rate needs another output_dir, --restart or --from; guards.non_finite can "
            "roll back by itself",
        )
