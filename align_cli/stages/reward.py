"""The stage before the first round that fits a reward model on preferences, and measures it on pairs held out of them.

A labeler of kind `reward_model` with the model `run` then asks it. It reads nothing of the policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.artifacts.checksums import folder_checksum, member_checksums
from align_cli.artifacts.files import writing_folder
from align_cli.artifacts.records import RewardReport
from align_cli.artifacts.scratch import ScratchFolder
from align_cli.errors import AlignError, DataError, all_at_once
from align_cli.recipe import Recipe
from align_cli.recipe.sections.labelers.reward_model import REWARD_MODEL
from align_cli.recipe.sections.reward import RewardSection
from align_cli.seeds import derive_seed, seeded_order
from align_cli.stages.base import (
    FORM_KEYS,
    REWARD,
    REWARD_TRAINING,
    Amounts,
    Artifact,
    Context,
    Done,
    ForkKeys,
    History,
    Loaded,
    Stage,
)
from align_cli.stages.inputs import Inputs
from align_cli.stages.opinions import kept_values
from align_cli.stages.reward_figures import Measured, measure
from align_cli.stages.reward_pairs import EVAL_KEY, KEY, RewardPair, pairs_of
from align_cli.training.checkpoints import TrainingState, read_optimizer_state, read_training_state, save_checkpoint

if TYPE_CHECKING:
    import torch

    from align_cli.models.reward_bases import RewardBase
    from align_cli.models.reward_models import Encoded, RewardReader
    from align_cli.training.reward_rows import RewardRow

MOST_FITTED_MEASURED = 512
"""Of the pairs that it was fitted on, so many are measured too: to see how much it has learnt by heart."""

WHO_CHATS = ("policy.model_name_or_path", "policy.from_scratch", "policy.revision")
"""Text becomes chats where the policy chats: no other key of the policy is of any matter."""

SHOWN = ("num_pairs", "accuracy", "low", "high", "length_accuracy", "log_loss", "calibration_error")
"""Of the figures on held-out pairs, those of the ledger."""


class Reward(Stage):
    """Fits the run's reward model."""

    name = "reward"
    writes = (REWARD_MODEL, REWARD_TRAINING, REWARD)
    memory_remedy = "lower reward.per_device_train_batch_size or reward.max_length, or set reward.lora or head: frozen"

    def is_due(self, recipe: Recipe, round_number: int) -> bool:
        return round_number == 0 and recipe.reward is not None

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        return ("seed", *WHO_CHATS, "playground", "reviews", *FORM_KEYS, "label.thinking", "reward")

    def reads(self, recipe: Recipe, history: History, round_number: int) -> list[Artifact]:
        return []

    def needs(self, recipe: Recipe) -> tuple[str, ...]:
        return ()

    def check(self, recipe: Recipe, loaded: Loaded) -> None:
        from align_cli.models.reward_bases import check_base
        from align_cli.training.buildable import check_reward_keys

        assert recipe.reward is not None
        all_at_once(
            partial(pairs_of, recipe, loaded.inputs),
            partial(check_base, recipe.reward),
            partial(check_reward_keys, recipe),
        )

    def shortages(self, recipe: Recipe, inputs: Inputs) -> list[str]:
        pairs = pairs_of(recipe, inputs) if recipe.reward is not None else None
        if pairs is None or not pairs.num_shared:
            return []
        count = f"{pairs.num_shared} of {len(pairs.held_out)} pairs of {EVAL_KEY}"
        return [f"{count} have a prompt of {KEY}: on these the reward model is measured on what it was fitted on"]

    def amounts(self, recipe: Recipe, inputs: Inputs, round_number: int) -> Amounts:
        from align_cli.training.reward import num_reward_steps

        section = recipe.reward
        if section is None or section.head == "frozen":
            return Amounts(pairs=len(pairs_of(recipe, inputs).fit))
        steps = num_reward_steps(section, len(pairs_of(recipe, inputs).fit))
        return Amounts(steps=steps, pairs=steps * section.global_batch_size)

    def fork_keys(self, recipe: Recipe) -> ForkKeys:
        """A fork takes the reward model over."""
        return ForkKeys(("reward",))

    def carry_out(self, context: Context) -> Done:
        from align_cli.models.reward_bases import load_base

        recipe, section = context.recipe, context.recipe.reward
        assert section is not None
        pairs = pairs_of(recipe, context.loaded.inputs)
        base = load_base(section, recipe.seed, recipe.policy.device)
        counts: Counter[str] = Counter(pairs.left_out)
        rows = _rows_to_fit(base.reader, pairs.fit, section, counts)
        fitted = _with_frozen_features if section.head == "frozen" else _trained
        model, steps = fitted(base, section, rows, context)
        with writing_folder(context.artifacts.place(REWARD_MODEL)) as folder:
            _save(model, base, folder)
            version = folder_checksum(member_checksums(folder))[:16]
        seen = [pairs.fit[place] for place in seeded_order(len(pairs.fit), recipe.seed, "reward", "measured")]
        measure = partial(_measured, model, base.reader, section, context)
        held_out, fitted_on = measure(pairs.held_out, "held-out"), measure(seen[:MOST_FITTED_MEASURED], "fitted")
        report = RewardReport(
            model=version,
            base=section.model_name_or_path,
            num_pairs=len(rows),
            num_steps=len(steps),
            not_fitted=dict(sorted(counts.items())),
            num_shared_prompts=pairs.num_shared,
            held_out=held_out.figures,
            fitted=fitted_on.figures,
            reliability=held_out.reliability,
        )
        if steps:
            context.artifacts.write(REWARD_TRAINING, steps)
        context.artifacts.write_document(REWARD, report)
        final = {"steps": len(steps), "final_loss": steps[-1]["loss"] if steps else None}
        return Done({"pairs": len(rows), **counts, **final, **{name: held_out.figures[name] for name in SHOWN}})


def _rows_to_fit(
    reader: RewardReader, pairs: Sequence[RewardPair], section: RewardSection, counts: Counter[str]
) -> list[RewardRow]:
    """The pairs in tokens; what is too long is left out or cut, and counted.

    Raises:
        DataError: if none is left.
    """
    from align_cli.training.reward_rows import RewardRow

    most = min((limit for limit in (section.max_length, reader.most) if limit is not None), default=None)
    chosen_sides = _encoded(reader, [(pair.prompt, pair.chosen) for pair in pairs], most)
    rejected_sides = _encoded(reader, [(pair.prompt, pair.rejected) for pair in pairs], most)
    rows = []
    for pair, chosen, rejected in zip(pairs, chosen_sides, rejected_sides, strict=True):
        was_cut = chosen.was_cut or rejected.was_cut
        if was_cut:
            counts["too_long_cut" if section.too_long == "cut" else "too_long_dropped"] += 1
        if not was_cut or section.too_long == "cut":
            rows.append(RewardRow(chosen, rejected, pair.label, pair.margin))
    if not rows:
        raise DataError(
            f"all {len(pairs)} pairs are longer than the {most} tokens that they may have",
            where=KEY,
            hint="raise reward.max_length, or set reward.too_long to cut",
        )
    return rows


def _encoded(reader: RewardReader, texts: Sequence[tuple[Any, Any]], most: int | None) -> list[Encoded]:
    prompts, responses = zip(*texts, strict=True)
    return reader.encode(prompts, responses, most)


class Fitted(NamedTuple):
    """A fitted model, and the figures of each step of its training; none for a head on frozen features."""

    model: torch.nn.Module
    steps: list[dict[str, float]]


def _trained(base: RewardBase, section: RewardSection, rows: Sequence[RewardRow], context: Context) -> Fitted:
    """By gradient steps, from where a killed process left off."""
    from align_cli.training.reward import RewardModelTrainer, num_reward_steps, to_be_fitted

    recipe, begun = context.recipe, context.work.checkpoint()
    fitted = to_be_fitted(base, section, recipe.seed)
    state = read_training_state(begun) if begun else None
    start = state or TrainingState(round=0, global_step=0, parent=None)
    context.progress.start(num_reward_steps(section, len(rows)), "steps")
    if begun and state:
        fitted.restore(begun)
        context.progress.found(start.global_step)
    with ScratchFolder() as scratch:
        trainer = RewardModelTrainer(
            fitted,
            base,
            section,
            rows,
            seed=recipe.seed,
            scratch_dir=scratch,
            on_step=lambda: context.progress.advance(),
        )

        def keep(state: TrainingState) -> None:
            context.work.keep_checkpoint(
                state.global_step, lambda folder: save_checkpoint(folder, fitted, state, trainer.optimizer)
            )

        moments = read_optimizer_state(begun, start) if begun and state else None
        steps = trainer.fit(start, moments, keep, recipe.checkpoints.every_steps)
    _refuse_diverged(steps)
    return Fitted(fitted.whole(), steps)


def _refuse_diverged(steps: Sequence[dict[str, float]]) -> None:
    for step in steps:
        if not abs(step["loss"]) < float("inf"):
            raise AlignError(
                f"the loss of the reward model is no finite number at step {step['step']}",
                where="reward.learning_rate",
                hint="lower it, or set reward.dtype to float32",
            )


def _with_frozen_features(
    base: RewardBase, section: RewardSection, rows: Sequence[RewardRow], context: Context
) -> Fitted:
    """A head on features that stay as they are; a killed process left those that it had."""
    from align_cli.training.frozen_head import features_of, fit_head, read_features, save_features, with_head

    texts = [row.chosen for row in rows] + [row.rejected for row in rows]
    done, every = read_features(context.work.checkpoint()), context.recipe.checkpoints.every_steps
    context.progress.start(len(texts), "texts")
    context.progress.found(sum(map(len, done)))

    def on_batch(batches: list[torch.Tensor]) -> None:
        context.progress.advance(len(batches[-1]))
        if every and len(batches) % every == 0:
            import torch

            features = torch.cat(batches)
            context.work.keep_checkpoint(len(features), lambda folder: save_features(folder, features))

    features = features_of(base, texts, section.per_device_train_batch_size, done, on_batch)
    return Fitted(with_head(base, fit_head(rows, features, section)), [])


def _save(model: Any, base: RewardBase, folder: Any) -> None:
    """The model with its tokenizer, as whoever loads it reads it."""
    from align_cli.models.reward_models import PooledRewardModel

    if isinstance(model, PooledRewardModel):
        model.save(folder, base.reader.most)
    else:
        model.save_pretrained(folder)
    base.reader.tokenizer.save_pretrained(folder)


def _measured(
    model: torch.nn.Module,
    reader: RewardReader,
    section: RewardSection,
    context: Context,
    pairs: Sequence[RewardPair],
    name: str,
) -> Measured:
    """A reward model on pairs, which it reads as a labeler does; scores are kept as they come."""
    from align_cli.models.reward_models import rewards_of

    texts = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
    encoded = _encoded(reader, texts, reader.most)
    context.progress.start(len(encoded), "scores")
    with context.work.journal(f"{name}-scores") as journal:
        scores = kept_values(
            encoded,
            section.per_device_train_batch_size,
            lambda batch: rewards_of(model, reader.pad(batch)).tolist(),
            context.progress,
            journal,
            lambda one: len(one.inputs["input_ids"]),
        )
    count = len(pairs)
    margins = [chosen - rejected for chosen, rejected in zip(scores[:count], scores[count:], strict=True)]
    return measure(margins, pairs, derive_seed(context.recipe.seed, "reward", "bootstrap") % 2**32)
