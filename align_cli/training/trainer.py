"""The one subclass of TRL's DPOTrainer: all rounds of a run go through a single instance of it.

What it changes, and why (TRL 1.16; each point has a contract test):

- `_compute_loss` is replaced by `objective`: TRL's is one private block, and the bilevel terms need the pieces in
  between. At coefficients 0 with hard labels it equals TRL's loss and gradients for `sigmoid`, `ipo` and `hinge`.
  Without an objective TRL's own block runs, for the losses that TRL alone has.
- `_prepare_dataset` hands our token ids through; TRL's would tokenise again and add end-of-sequence tokens.
- `get_batch_samples` sees all micro-batches of a step, so baselines and the weights of KL and optimism are those of the
  whole global batch.
- `.train()` is called once a round, on the batches that `batches.Mixture` chose, and goes on where the last round, or a
  killed process, left off: see `resumable`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from align_cli.errors import DivergedError
from align_cli.models.load import Policy, uses_cache
from align_cli.models.memory import out_of_memory_as_memory_error
from align_cli.models.quantized import adapters_in_float32
from align_cli.recipe import Recipe
from align_cli.seeds import derive_seed
from align_cli.training.arguments import dpo_config
from align_cli.training.batches import MODEL_INPUTS, PairCollator, TrainingPair, select_pairs
from align_cli.training.checkpoints import TrainingState
from align_cli.training.dropout import switch_off_dropout
from align_cli.training.objective import (
    Carriers,
    Figures,
    GlobalLosses,
    Inputs,
    Objective,
    carriers,
    pair_losses,
    pair_values,
    pairs_per_carrier,
    recipe_objective,
)
from align_cli.training.resumable import Resumable

TRLS_RUNNING_TOTALS = ("num_tokens",)
"""Figures of TRL's that count since the process began, and so differ in a run that was interrupted."""

GLOBAL_COLUMNS = ("source", "prompt_id", "response_ids")


class PreferenceTrainer(Resumable, DPOTrainer):
    """Trains a policy on preference pairs, round after round.

    Args:
        policy: model and tokenizer; the model is trained in place.
        reference: the model that margins are taken against; never trained.
        objective: the loss; None for TRL's own, as `args` has it.
        args: from `dpo_config`.
        source_grad_norms: when the gradient norm of each source is measured: `round` (its first step), `step`, `never`.
        schedule_spans_run: whether the learning-rate schedule goes on across rounds.
        reset_optimizer: whether each round begins with a new optimizer.
        on_step: called after every optimizer step.
    """

    def __init__(
        self,
        policy: Policy,
        reference: torch.nn.Module,
        objective: Objective | None,
        args: DPOConfig,
        *,
        source_grad_norms: str = "never",
        schedule_spans_run: bool = True,
        reset_optimizer: bool = False,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.objective = objective
        self.source_grad_norms = source_grad_norms
        self.schedule_spans_run = schedule_spans_run
        self.reset_optimizer = reset_optimizer
        self.figures = Figures()
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

    def train_round(
        self,
        batches: list[list[TrainingPair]],
        start: TrainingState,
        optimizer_state: dict[str, Any] | None = None,
        keep: Callable[[TrainingState], None] = lambda state: None,
        keep_every: int | None = None,
    ) -> TrainingState:
        """Train on a round's batches, in their order.

        Args:
            batches: one list of pairs an optimizer step.
            start: where training stands; the round after `start.round` is the one that is trained. From within that
                round, the batches of the steps that are done are passed over.
            optimizer_state: what to put into the optimizer first; None leaves it as it is.
            keep: called with where training stands after every `keep_every` steps but the last.
            keep_every: steps between those calls; None for none.

        Returns:
            Where training stands now, without the optimizer's state.
        """
        done = len(start.steps or ())
        self.figures.take()
        self._metrics["train"].clear()
        self.data_collator.num_responses = max(2 + len(pair.other_ids) for batch in batches for pair in batch)
        if self.reset_optimizer and not done:
            self.optimizer, optimizer_state = None, None
        first_step = start.global_step if self.schedule_spans_run else done
        seed = derive_seed(self.args.seed, start.round + 1, "train") % 2**32
        self.plan(batches, start, first_step, optimizer_state, seed, keep, keep_every)
        with out_of_memory_as_memory_error(), self._as_trained():
            self.train()
        self.model.eval()
        return TrainingState(
            round=start.round + 1,
            global_step=self.steps_before + len(batches),
            parent=None,
            scheduler=self.lr_scheduler.state_dict(),
        )

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

    def halve_micro_batch(self) -> bool:
        """Put at most half as many pairs into a forward pass, and as many more passes into a step.

        Returns:
            Whether there was anything to halve.
        """
        args = self.args
        global_batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        smaller = [size for size in range(1, args.per_device_train_batch_size // 2 + 1) if global_batch % size == 0]
        if smaller:
            self.cut_into(smaller[-1])
        return bool(smaller)

    def cut_into(self, micro_batch: int) -> None:
        """Put so many pairs into a forward pass, at the same global batch, which they must divide."""
        args = self.args
        global_batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        args.per_device_train_batch_size = micro_batch
        self._train_batch_size = args.train_batch_size
        # accelerate's own number stays 1, as the Trainer has it: both would divide the loss.
        args.gradient_accumulation_steps = global_batch // micro_batch

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """All micro-batches of a step, with what they have to know of each other.

        That is how many pairs carry KL and optimism and, where there are several, the losses that baselines average.
        """
        micro_batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.objective is not None:
            self._add_pairs_per_carrier(self.objective, micro_batches)
            if self.objective.needs_baseline and len(micro_batches) > 1:
                self._add_global_losses(self.objective, micro_batches)
            if self._measures_sources():
                self._measure_sources(self.objective, micro_batches)
        return micro_batches, num_items

    def _compute_loss(self, model: torch.nn.Module, inputs: Inputs, return_outputs: bool) -> Any:
        if self.objective is None:
            return self._trl_loss(model, inputs, return_outputs)
        loss = self._values(self.objective, model, inputs, self.figures).mean()
        return (loss, None) if return_outputs else loss

    def _trl_loss(self, model: torch.nn.Module, inputs: Inputs, return_outputs: bool) -> Any:
        found = super()._compute_loss(model, {name: inputs[name] for name in MODEL_INPUTS}, return_outputs)
        loss = found[0] if return_outputs else found
        self.figures.add("loss", loss.view(1))
        return found

    def _values(self, objective: Objective, model: torch.nn.Module, inputs: Inputs, figures: Figures) -> torch.Tensor:
        """(B,) the value of every pair."""
        pairs = pair_losses(objective, model, self.ref_model, inputs)
        if "global_loss" in inputs:
            batch = GlobalLosses(inputs["global_loss"], *(inputs[f"global_{name}"] for name in GLOBAL_COLUMNS))
        else:
            batch = GlobalLosses(
                self._gathered(pairs.losses_B.detach()), *(self._gathered(inputs[name]) for name in GLOBAL_COLUMNS)
            )
        return pair_values(objective, pairs, inputs, batch, figures)

    def _add_pairs_per_carrier(self, objective: Objective, micro_batches: list[Inputs]) -> None:
        parts = [carriers(objective, batch) for batch in micro_batches]
        whole = Carriers(*(self._gathered(torch.cat(columns)) for columns in zip(*parts, strict=True)))
        step = pairs_per_carrier(whole)
        for batch in micro_batches:
            batch.update(step)

    def _add_global_losses(self, objective: Objective, micro_batches: list[Inputs]) -> None:
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = [pair_losses(objective, self.model, self.ref_model, batch).losses_B for batch in micro_batches]
        step = {"global_loss": self._gathered(torch.cat(losses))}
        for name in GLOBAL_COLUMNS:
            step[f"global_{name}"] = self._gathered(torch.cat([batch[name] for batch in micro_batches]))
        for batch in micro_batches:
            batch.update(step)

    def _measures_sources(self) -> bool:
        if self.objective is None or len(self.objective.sources) < 2 or self.source_grad_norms == "never":
            return False
        return self.source_grad_norms == "step" or not self.step_records

    def _measure_sources(self, objective: Objective, micro_batches: list[Inputs]) -> None:
        """The norm of what each source adds to the step's gradient, from its pairs alone: one more step's work in all.

        Gradients are made one source after the other where the step's own will be, so this takes no more memory.
        """
        num_pairs = sum(len(batch["source"]) for batch in micro_batches)
        for position, source in enumerate(objective.sources):
            self.model.zero_grad()
            for batch in micro_batches:
                part = select_pairs(batch, batch["source"] == position)
                if len(part["source"]):
                    with self.compute_loss_context_manager():
                        share = self._values(objective, self.model, part, Figures()).sum() / num_pairs
                    share.backward()
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            self.figures.add(f"{source.name}/grad_norm", torch.nn.utils.get_total_norm(gradients).view(1))
        self.model.zero_grad()

    def _gathered(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.gather(values)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep every step's figures; then as TRL does, for whatever `report_to` names."""
        if "loss" in logs:
            figures = self.figures.take()
            own = {"loss": figures.pop("loss"), "grad_norm": logs["grad_norm"]}
            if not all(math.isfinite(value) for value in own.values()):
                raise DivergedError(
                    f"training diverged at step {self.state.global_step}: loss {own['loss']}, gradient norm "
                    f"{own['grad_norm']}",
                    where="train",
                    hint="look at this round's pairs; a lower train.learning_rate or a higher method.beta needs "
                    "another output_dir, --restart or --from; guards.non_finite can roll back by itself",
                )
            if self.objective is not None:
                if len(self.objective.sources) == 1 and self.source_grad_norms != "never":
                    figures[f"{self.objective.sources[0].name}/grad_norm"] = own["grad_norm"]
                self._metrics["train"].update({name: [value] for name, value in figures.items()})
            else:
                means = {name: sum(values) / len(values) for name, values in self._metrics["train"].items()}
                figures = {name: mean for name, mean in means.items() if name not in TRLS_RUNNING_TOTALS}
            rate = {"learning_rate": logs["learning_rate"]}
            self.step_records.append({"step": self.state.global_step, **own, **rate, **dict(sorted(figures.items()))})
            self.step_is_logged()
        super().log(logs, start_time)


def make_trainer(
    policy: Policy, reference: torch.nn.Module, recipe: Recipe, folder: Path, on_step: Callable[[], None]
) -> PreferenceTrainer:
    """The trainer of a recipe; made once a process, since every DPOTrainer wraps `model.forward` once more.

    Args:
        policy: what is trained.
        reference: what margins are taken against.
        recipe: the whole recipe.
        folder: what the trainer and the trackers of `train.report_to` may write to.
        on_step: called after every optimizer step.
    """
    return PreferenceTrainer(
        policy,
        reference,
        None if recipe.method.uses_trl_loss else recipe_objective(recipe),
        dpo_config(recipe, folder, device=policy.model.device, use_cache=uses_cache(policy.model)),
        source_grad_norms=recipe.train.source_grad_norms,
        schedule_spans_run=recipe.train.schedule == "run",
        reset_optimizer=recipe.train.reset_optimizer_each_round,
        on_step=on_step,
    )
