"""The one subclass of TRL's DPOTrainer: all rounds of a run go through a single instance of it.

What it changes, and why (TRL 1.16; each point has a contract test):

- `_compute_loss` is replaced whole: TRL's is one private block, and the bilevel terms need the pieces in between. At
  coefficients 0 with hard labels it equals TRL's loss and gradients for `sigmoid`, `ipo` and `hinge`.
- `_prepare_dataset` hands our token ids through; TRL's would tokenise again and add end-of-sequence tokens.
- `get_train_dataloader` gives a round's batches in the order that `batches.Mixture` chose.
- `get_batch_samples` sees all micro-batches of a step, so the baseline is one of the whole global batch.
- `.train()` is called once a round. It always begins at step 0 with a new schedule, so a callback sets the step, the
  schedule, the optimizer and the seeds when training begins, and stops it when the round ends.

Shapes: B pairs of a micro-batch (2B sequences: chosen, then rejected), G pairs of the global batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer

from align_cli.errors import AlignError
from align_cli.methods.bilevel import leave_one_out_baseline, response_term
from align_cli.methods.preference import expected_preference_loss, preference_loss, preference_margin
from align_cli.models.load import Policy
from align_cli.models.scoring import TokenBatch, response_logps
from align_cli.recipe.schema import Recipe
from align_cli.seeds import derive_seed
from align_cli.training.arguments import dpo_config
from align_cli.training.batches import PairCollator, TrainingPair
from align_cli.training.checkpoints import TrainingState


class SourceTerms(NamedTuple):
    """What the loss needs to know of a source.

    Args:
        name: as in the recipe.
        gradient_coefficient: c of the bilevel response term; 0 leaves it out.
    """

    name: str
    gradient_coefficient: float


class PairLosses(NamedTuple):
    """Losses of a micro-batch and what they are made of; B each."""

    losses_B: torch.Tensor
    margins_B: torch.Tensor
    response_logps_B: torch.Tensor


class PreferenceTrainer(DPOTrainer):
    """Trains a policy on preference pairs, round after round.

    Args:
        policy: model and tokenizer; the model is trained in place.
        reference: the model that margins are taken against; never trained.
        sources: the sources in the order of the mixture.
        args: from `dpo_config`.
        schedule_spans_run: whether the learning-rate schedule goes on across rounds.
        reset_optimizer: whether each round begins with a new optimizer.
        on_step: called after every optimizer step.
    """

    def __init__(
        self,
        policy: Policy,
        reference: torch.nn.Module,
        sources: Sequence[SourceTerms],
        args: DPOConfig,
        *,
        schedule_spans_run: bool = True,
        reset_optimizer: bool = False,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.sources = list(sources)
        self.loss_name = args.loss_type[0]
        self.schedule_spans_run = schedule_spans_run
        self.reset_optimizer = reset_optimizer
        self.on_step = on_step
        self.batches: list[list[TrainingPair]] = []
        self.step_records: list[dict[str, float]] = []
        super().__init__(
            model=policy.model,
            ref_model=reference,
            args=args,
            processing_class=policy.tokenizer,
            data_collator=PairCollator(policy.tokenizer.pad_token_id),
            # TRL insists on a dataset when it is made; each round brings its own batches.
            train_dataset=Dataset.from_list([{"prompt_ids": [0]}]),
            callbacks=[_RoundCallback(self)],
        )
        for printer in (PrinterCallback, ProgressCallback):
            self.remove_callback(printer)

    def train_round(
        self,
        batches: list[list[TrainingPair]],
        start: TrainingState,
        optimizer_state: dict[str, Any] | None = None,
    ) -> TrainingState:
        """Train on a round's batches, in their order.

        Args:
            batches: one list of pairs an optimizer step.
            start: where training stands; the round after `start.round` is the one that is trained.
            optimizer_state: what to put into the optimizer first; None leaves it as it is.

        Returns:
            Where training stands now, without the optimizer's state.
        """
        self.batches, self.step_records = batches, []
        self.start, self.start_optimizer = start, optimizer_state
        self.first_step = start.global_step if self.schedule_spans_run else 0
        self.stop_step = self.first_step + len(batches)
        self.args.max_steps = max(self.args.max_steps, self.stop_step)
        if self.reset_optimizer:
            self.optimizer, self.start_optimizer = None, None
        self.train()
        self.model.eval()
        return TrainingState(
            round=start.round + 1,
            global_step=start.global_step + len(batches),
            parent=None,
            scheduler=self.lr_scheduler.state_dict(),
        )

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def get_train_dataloader(self) -> DataLoader:
        pairs = [pair for batch in self.batches for pair in batch]
        loader: DataLoader = DataLoader(
            pairs,  # type: ignore[arg-type]
            batch_size=self.args.per_device_train_batch_size,
            shuffle=False,
            collate_fn=self.data_collator,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """All micro-batches of a step; where the step has several, with the losses that the baseline averages."""
        micro_batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if len(micro_batches) > 1 and any(source.gradient_coefficient for source in self.sources):
            with torch.no_grad(), self.compute_loss_context_manager():
                losses = [self._pair_losses(self.model, batch).losses_B for batch in micro_batches]
            step_columns = {
                "global_loss": self._gathered(torch.cat(losses)),
                "global_source": self._gathered(torch.cat([batch["source"] for batch in micro_batches])),
                "global_pair_id": self._gathered(torch.cat([batch["pair_id"] for batch in micro_batches])),
            }
            for batch in micro_batches:
                batch.update(step_columns)
        return micro_batches, num_items

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool) -> Any:
        pairs = self._pair_losses(model, inputs)
        loss = pairs.losses_B.mean()
        for position, source in enumerate(self.sources):
            rows = inputs["source"] == position
            if source.gradient_coefficient and rows.any():
                baselines = self._baselines(inputs, pairs, position)
                terms = response_term(pairs.losses_B[rows], baselines, pairs.response_logps_B[rows])
                loss = loss + source.gradient_coefficient * terms.sum() / len(rows)
                self._record(f"{source.name}/response_term", terms.detach().abs().mean())
                self._record(f"{source.name}/baseline", baselines.mean())
            if rows.any():
                self._record(f"{source.name}/loss", pairs.losses_B[rows].detach().mean())
                self._record(f"{source.name}/accuracy", (pairs.margins_B[rows] > 0).float().mean())
                self._record(f"{source.name}/margin", pairs.margins_B[rows].detach().mean())
        self._record("raw_loss", pairs.losses_B.detach().mean())
        return (loss, None) if return_outputs else loss

    def _pair_losses(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> PairLosses:
        """ℓ̄ of every pair under the current policy."""
        batch = TokenBatch(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"])
        logps_2B = response_logps(model, batch)
        with torch.no_grad():
            reference_logps_2B = response_logps(self.ref_model, batch)
        chosen_ratios_B, rejected_ratios_B = (logps_2B - reference_logps_2B).chunk(2)
        chosen_lengths_B, rejected_lengths_B = batch.completion_mask_BT.sum(-1).chunk(2)
        margins_B = preference_margin(
            chosen_ratios_B, rejected_ratios_B, chosen_lengths_B, rejected_lengths_B, self.loss_name
        )
        losses_B = expected_preference_loss(margins_B, inputs["label"], self.loss_name, self.beta)
        return PairLosses(losses_B, margins_B, sum(logps_2B.chunk(2)))  # type: ignore[arg-type]

    def _baselines(self, inputs: dict[str, torch.Tensor], pairs: PairLosses, position: int) -> torch.Tensor:
        """Leave-one-out baselines of this micro-batch's pairs of a source, over the whole global batch."""
        losses_G = inputs.get("global_loss", self._gathered(pairs.losses_B.detach()))
        sources_G = inputs.get("global_source", self._gathered(inputs["source"]))
        pair_ids_G = inputs.get("global_pair_id", self._gathered(inputs["pair_id"]))
        others = sources_G == position
        zero_margin_loss = preference_loss(torch.zeros(1), self.loss_name, self.beta).item()
        return leave_one_out_baseline(
            losses_G[others], pair_ids_G[others], inputs["pair_id"][inputs["source"] == position], zero_margin_loss
        )

    def _gathered(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.gather(values)

    def _record(self, name: str, value: torch.Tensor) -> None:
        self._metrics["train"][name].append(value.item())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep every step's figures; then as TRL does, for whatever `report_to` names."""
        if "loss" in logs:
            figures = {key: sum(values) / len(values) for key, values in sorted(self._metrics["train"].items())}
            own = {"loss": figures.pop("raw_loss"), "grad_norm": logs["grad_norm"]}
            if not all(math.isfinite(value) for value in own.values()):
                raise AlignError(
                    f"training diverged at step {self.state.global_step}: loss {own['loss']}, gradient norm "
                    f"{own['grad_norm']}",
                    where="train",
                    hint="lower train.learning_rate, raise method.beta, or look at the pairs of this round",
                )
            rate = {"learning_rate": logs["learning_rate"]}
            self.step_records.append({"step": self.state.global_step, **own, **rate, **figures})
        super().log(logs, start_time)


class _RoundCallback(TrainerCallback):
    """Begins a round where the last one ended, and stops it at its end."""

    def __init__(self, trainer: PreferenceTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        set_seed(derive_seed(args.seed, trainer.start.round + 1, "train") % 2**32)
        state.global_step = trainer.first_step
        trainer._globalstep_last_logged = trainer.first_step
        if trainer.start_optimizer is not None:
            trainer.optimizer.load_state_dict(trainer.start_optimizer)  # type: ignore[attr-defined]
        _set_schedule(trainer.lr_scheduler, trainer.optimizer, trainer.first_step, trainer.start.scheduler)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.trainer.stop_step
        self.trainer.on_step()


def _set_schedule(scheduler: Any, optimizer: Any, step: int, state: dict[str, Any] | None) -> None:
    """Put a new schedule at the step where the last round left it.

    The learning rate comes from the schedule as planned now, so that a run whose `rounds` were raised follows the
    longer schedule from here on.
    """
    if step and state is not None:
        scheduler.load_state_dict(state)
    rates = scheduler.get_last_lr()
    if isinstance(scheduler, LambdaLR):
        rates = [base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    scheduler._last_lr = rates
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def make_trainer(
    policy: Policy, reference: torch.nn.Module, recipe: Recipe, scratch_dir: Path, on_step: Callable[[], None]
) -> PreferenceTrainer:
    """The trainer of a recipe; made once a process, since every DPOTrainer wraps `model.forward` once more."""
    sources = [
        SourceTerms(name, getattr(section, "gradient", 0.0))
        for name, section in (("offline", recipe.method.sources.offline), ("dpr", recipe.method.sources.dpr))
        if section is not None
    ]
    return PreferenceTrainer(
        policy,
        reference,
        sources,
        dpo_config(recipe, scratch_dir, use_cache=policy.model.config.use_cache),
        schedule_spans_run=recipe.train.schedule == "run",
        reset_optimizer=recipe.train.reset_optimizer_each_round,
        on_step=on_step,
    )
