"""The one subclass of TRL's DPOTrainer: all rounds of a run go through a single instance of it.

What it changes, and why (TRL 1.16; each point has a contract test):

- `_compute_loss` is replaced by `pair_losses` and `pair_values`, by what an `objective` says: TRL's is one private
  block, and the bilevel terms need the pieces in between. At coefficients 0 with hard labels it equals TRL's loss and
  gradients for `sigmoid`, `ipo` and `hinge`. Without an objective TRL's own block runs, for the losses that TRL alone
  has.
- `_prepare_dataset` hands our token ids through; TRL's would tokenise again and add end-of-sequence tokens.
- transformers sees one batch a step. `training_step` cuts it into forward passes, by pairs and by tokens, pairs of a
  length together; what baselines and the weights of KL and optimism have to know of the whole batch is found before,
  by what is `known` of its pairs where that is enough: see `passes`.
- Several processes train together by `ranks`: each takes a share of every batch, and what is of the whole batch is
  found over all of them. transformers and accelerate know of none of it, and take each process for the only one: see
  `one_of_several`.
- Every step is logged, with figures of our own: see `step_records`.
- `.train()` is called once a round, on the batches that `batches.Mixture` chose, and goes on where the last round, or a
  killed process, left off: see `resumable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from align_cli.models.load import Policy, uses_cache
from align_cli.models.memory import out_of_memory_as_memory_error
from align_cli.models.quantized import adapters_in_float32
from align_cli.recipe import Recipe
from align_cli.seeds import derive_seed
from align_cli.training.arguments import dpo_config
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.collated import MODEL_INPUTS, Inputs, PairCollator
from align_cli.training.dropout import switch_off_dropout
from align_cli.training.known import RoundsReference
from align_cli.training.objective import Objective, recipe_objective
from align_cli.training.ranks import ALONE, Ranks
from align_cli.training.shares import share_of
from align_cli.training.step_records import StepRecords

if TYPE_CHECKING:
    from align_cli.training.parts import MomentsInParts
    from align_cli.training.sharded import Sharding


class PreferenceTrainer(StepRecords, DPOTrainer):
    """Trains a policy on preference pairs, round after round.

    Args:
        policy: model and tokenizer; the model is trained in place.
        reference: the model that margins are taken against; never trained.
        objective: the loss; None for TRL's own, as `args` has it.
        args: from `dpo_config`.
        pairs_per_pass: the most pairs in a forward pass; None for whole batches.
        tokens_per_pass: the most tokens of its sequences, as `cut_into_passes` counts them. None for any number.
        source_grad_norms: when the gradient norm of each source is measured: `round` (its first step), `step`, `never`.
        schedule_spans_run: whether the learning-rate schedule goes on across rounds.
        reset_optimizer: whether each round begins with a new optimizer.
        on_step: called after every optimizer step.
        ranks: the processes that train together; `args` has this one's share of a batch.
        sharding: how the model is split over them; None lets each have all of it.
    """

    def __init__(
        self,
        policy: Policy,
        reference: torch.nn.Module,
        objective: Objective | None,
        args: DPOConfig,
        *,
        pairs_per_pass: int | None = None,
        tokens_per_pass: int | None = None,
        source_grad_norms: str = "never",
        schedule_spans_run: bool = True,
        reset_optimizer: bool = False,
        on_step: Callable[[], None] = lambda: None,
        ranks: Ranks = ALONE,
        sharding: Sharding | None = None,
    ) -> None:
        policy = self.join(policy, reference, ranks, sharding)
        self.objective = objective
        self.cut_by(pairs_per_pass or args.per_device_train_batch_size, tokens_per_pass)
        self.record(source_grad_norms)
        self.schedule_spans_run = schedule_spans_run
        self.reset_optimizer = reset_optimizer
        self._passes: list[Inputs] = []
        self._models = (policy.model, reference)
        self._plain_forwards = [model.forward for model in self._models]
        with adapters_in_float32(policy.model):
            super().__init__(
                model=policy.model,
                ref_model=reference,
                args=args,
                processing_class=policy.tokenizer,
                data_collator=PairCollator(policy.tokenizer.pad_token_id),
                # TRL insists on a dataset when it is made; each round brings its own batches.
                train_dataset=Dataset.from_list([{"prompt_ids": [0]}]),
            )
        for each in self._models:
            switch_off_dropout(each)
        self.listen(on_step)
        self._training_forwards = [model.forward for model in self._models]
        self._put_forwards(self._plain_forwards)

    def follow(self, recipe: Recipe) -> None:
        """Train by what a recipe says of the round that comes."""
        if self.objective is not None:
            self.objective = replace(recipe_objective(recipe), kl_control=self.objective.kl_control)

    def train_round(
        self,
        batches: list[list[TrainingPair]],
        start: TrainingState,
        optimizer_state: dict[str, Any] | MomentsInParts | None = None,
        keep: Callable[[TrainingState], None] = lambda state: None,
        keep_every: int | None = None,
        reference: RoundsReference | None = None,
    ) -> TrainingState:
        """Train on a round's batches, in their order.

        Args:
            batches: one list of pairs an optimizer step.
            start: where training stands; the round after `start.round` is the one that is trained. From within that
                round, the batches of the steps that are done are passed over.
            optimizer_state: what to put into the optimizer first; None leaves it as it is.
            keep: called with where training stands after every `keep_every` steps but the last.
            keep_every: steps between those calls; None for none.
            reference: how the reference is asked; None where it is in memory and nothing is known of what it says.

        Returns:
            Where training stands now, without the optimizer's state.
        """
        done = len(start.steps or ())
        if self.objective is not None:
            self.objective = self.objective.held_from(start.kl_control)
        self.figures.take()
        self._metrics["train"].clear()
        self.data_collator.num_responses = max(2 + len(pair.other_ids) for batch in batches for pair in batch)
        shares = [share_of(batch, self.ranks.rank, self.ranks.number) for batch in batches]
        if self.reset_optimizer and not done:
            self.optimizer, optimizer_state = None, None
        first_step = start.global_step if self.schedule_spans_run else done
        seed = derive_seed(self.args.seed, start.round + 1, "train") % 2**32
        self.plan(shares, start, first_step, optimizer_state, seed, keep, keep_every)
        with out_of_memory_as_memory_error(), self._as_trained():
            self.know(batches, reference)
            with self.split():
                self.train()
        self.model.eval()
        return replace(self.state_now(), round=start.round + 1)

    def state_now(self) -> TrainingState:
        """Where training stands within the round, and the control of its KL."""
        control = self.objective and self.objective.kl_control
        return replace(super().state_now(), kl_control=control._asdict() if control else None)

    @contextmanager
    def _as_trained(self) -> Iterator[None]:
        """While training, the forwards as TRL and accelerate wrap them, mixed precision included; else the models' own.

        Otherwise a policy would be sampled and evaluated in another precision before its trainer is made than after,
        and a run that was interrupted would end in other bytes.
        """
        self._put_forwards(self._training_forwards)
        try:
            yield
        finally:
            self._training_forwards = [model.forward for model in self._models]
            self._put_forwards(self._plain_forwards)

    def _put_forwards(self, forwards: list[Any]) -> None:
        for model, forward in zip(self._models, forwards, strict=True):
            model.forward = forward

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """A step's batch, whose passes are made ready."""
        (batch,), num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        with self.running_out_together():
            self._passes = self.passes(batch)
            self.measure_sources(self._passes)
        return [batch], num_items

    def training_step(self, model: torch.nn.Module, inputs: Inputs, num_items_in_batch: Any = None) -> torch.Tensor:
        """The passes of the step's batch, forward and backward; their losses add up to its loss."""
        losses = []
        with self.running_out_together():
            for part in self._passes:
                losses.append(super().training_step(model, part, num_items_in_batch))
        self._passes = []
        self.add_up()
        return torch.stack(losses).sum()

    def _compute_loss(self, model: torch.nn.Module, inputs: Inputs, return_outputs: bool) -> Any:
        if self.objective is None:
            return self._trl_loss(model, inputs, return_outputs)
        values = self._values(self.objective, model, inputs, self.figures)
        loss = self.gradient_scale * values.sum() / inputs.get("global_num_pairs", len(values))
        return (loss, None) if return_outputs else loss

    def _trl_loss(self, model: torch.nn.Module, inputs: Inputs, return_outputs: bool) -> Any:
        found = super()._compute_loss(model, {name: inputs[name] for name in MODEL_INPUTS}, return_outputs)
        loss = found[0] if return_outputs else found
        self.figures.add("loss", loss.view(1))
        share = self.gradient_scale * len(inputs["label"]) / inputs["global_num_pairs"]
        return (share * loss, found[1]) if return_outputs else share * loss


def make_trainer(
    policy: Policy,
    reference: torch.nn.Module,
    recipe: Recipe,
    folder: Path,
    on_step: Callable[[], None],
    ranks: Ranks = ALONE,
    sharding: Sharding | None = None,
    kind: type[PreferenceTrainer] = PreferenceTrainer,
) -> PreferenceTrainer:
    """The trainer of a recipe; made once a process, since every DPOTrainer wraps `model.forward` once more.

    Args:
        policy: what is trained.
        reference: what margins are taken against.
        recipe: the whole recipe.
        folder: what the trainer and transformers' own trackers may write to.
        on_step: called after every optimizer step.
        ranks: the processes that train together.
        sharding: how the model is split over them; None lets each have all of it.
        kind: of trainer.
    """
    args = dpo_config(
        recipe, folder, device=policy.model.device, use_cache=uses_cache(policy.model), num_processes=ranks.number
    )
    return kind(
        policy,
        reference,
        None if recipe.method.uses_trl_loss else recipe_objective(recipe),
        args,
        pairs_per_pass=recipe.train.per_device_train_batch_size,
        tokens_per_pass=recipe.train.per_device_max_tokens,
        source_grad_norms=recipe.train.source_grad_norms,
        schedule_spans_run=recipe.train.schedule == "run",
        reset_optimizer=recipe.begins_with_new_optimizer,
        on_step=on_step,
        ranks=ranks,
        sharding=sharding,
    )
