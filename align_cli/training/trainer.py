"""The one subclass of TRL's DPOTrainer: all rounds of a run go through a single instance of it.

What it changes, and why (TRL 1.16; each point has a contract test):

- `_compute_loss` is replaced whole: TRL's is one private block, and the bilevel terms need the pieces in between. At
  coefficients 0 with hard labels it equals TRL's loss and gradients for `sigmoid`, `ipo` and `hinge`.
- `_prepare_dataset` hands our token ids through; TRL's would tokenise again and add end-of-sequence tokens.
- `get_train_dataloader` gives a round's batches in the order that `batches.Mixture` chose.
- `get_batch_samples` sees all micro-batches of a step, so the baseline is one of the whole global batch.
- `.train()` is called once a round. It always begins at step 0 with a new schedule, so a callback sets the step, the
  schedule, the optimizer and the seeds when training begins, and stops it when the round ends.

Shapes: B pairs of a micro-batch, G pairs of the global batch, S sequences (2B chosen and rejected, then all others),
C response positions.
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
from align_cli.methods.bilevel import (
    importance_weights,
    label_term,
    leave_one_out_baseline,
    policy_labels,
    response_term,
)
from align_cli.methods.kl import sequence_kl
from align_cli.methods.logprobs import sequence_logps, token_kl, token_logps
from align_cli.methods.preference import expected_preference_loss, preference_loss, preference_margin
from align_cli.models.load import Policy
from align_cli.models.scoring import ResponseLogits, TokenBatch, response_logits
from align_cli.recipe.schema import Recipe
from align_cli.seeds import derive_seed
from align_cli.training.arguments import dpo_config
from align_cli.training.batches import PairCollator, TrainingPair
from align_cli.training.checkpoints import TrainingState


class SourceTerms(NamedTuple):
    """What the loss needs to know of a source.

    Args:
        name: as in the recipe.
        gradient_coefficient: c of the bilevel terms; 0 leaves them out.
        policy_responses: whether its responses come from the policy.
        policy_labels: whether its labels are the policy's own, recomputed at each step.
        kl_coefficient: weight of the mean KL of its responses; 0 leaves it out.
    """

    name: str
    gradient_coefficient: float = 0.0
    policy_responses: bool = False
    policy_labels: bool = False
    kl_coefficient: float = 0.0


class PairLosses(NamedTuple):
    """Losses of a micro-batch under the current policy, and what they are made of.

    Args:
        losses_B: ℓ̄, with the labels of each pair's source.
        forward_B: ℓ(h), the loss if the chosen response wins.
        backward_B: ℓ(−h), the loss if the rejected one wins.
        labels_B: q, the policy's own where the source says so.
        margins_B: h.
        preference_logits_B: β(s1 − s2), s summed over tokens.
        response_logps_B: Σ log πθ over all of the pair's responses.
        kl_B: mean KL to the reference of the pair's two responses; 0 where no source asks for it.
    """

    losses_B: torch.Tensor
    forward_B: torch.Tensor
    backward_B: torch.Tensor
    labels_B: torch.Tensor
    margins_B: torch.Tensor
    preference_logits_B: torch.Tensor
    response_logps_B: torch.Tensor
    kl_B: torch.Tensor


class PreferenceTrainer(DPOTrainer):
    """Trains a policy on preference pairs, round after round.

    Args:
        policy: model and tokenizer; the model is trained in place.
        reference: the model that margins are taken against; never trained.
        sources: the sources in the order of the mixture.
        args: from `dpo_config`.
        kl_gradient: `pathwise` or `full`.
        importance_weight_cap: largest weight of a pair whose responses come from the policy; None weighs none.
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
        kl_gradient: str = "full",
        importance_weight_cap: float | None = None,
        schedule_spans_run: bool = True,
        reset_optimizer: bool = False,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.sources = list(sources)
        self.loss_name = args.loss_type[0]
        self.kl_gradient = kl_gradient
        self.importance_weight_cap = importance_weight_cap
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
        needs_baseline = any(source.gradient_coefficient and source.policy_responses for source in self.sources)
        if len(micro_batches) > 1 and needs_baseline:
            with torch.no_grad(), self.compute_loss_context_manager():
                losses = [self._pair_losses(self.model, batch).losses_B for batch in micro_batches]
            step_columns = {
                "global_loss": self._gathered(torch.cat(losses)),
                "global_source": self._gathered(torch.cat([batch["source"] for batch in micro_batches])),
                "global_group_id": self._gathered(torch.cat([batch["group_id"] for batch in micro_batches])),
            }
            for batch in micro_batches:
                batch.update(step_columns)
        return micro_batches, num_items

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool) -> Any:
        pairs = self._pair_losses(model, inputs)
        values_B = pairs.losses_B
        for position, source in enumerate(self.sources):
            rows_B = inputs["source"] == position
            if rows_B.any():
                terms_B = self._source_terms(source, position, pairs, inputs)
                values_B = values_B + torch.where(rows_B, terms_B, 0.0)
                self._record_source(source.name, pairs, rows_B)
        self._record("raw_loss", pairs.losses_B.mean())
        loss = (self._weights(pairs, inputs) * values_B).mean()
        return (loss, None) if return_outputs else loss

    def _source_terms(
        self, source: SourceTerms, position: int, pairs: PairLosses, inputs: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """What a source adds to ℓ̄: (B,), of which its own rows are meant."""
        rows_B = inputs["source"] == position
        terms_B = torch.zeros_like(pairs.losses_B)
        if source.gradient_coefficient and source.policy_responses:
            baselines_B = self._baselines(inputs, pairs, position)
            term_B = response_term(pairs.losses_B, baselines_B, pairs.response_logps_B)
            terms_B = terms_B + source.gradient_coefficient * term_B
            self._record(f"{source.name}/response_term", term_B[rows_B].abs().mean())
            self._record(f"{source.name}/baseline", baselines_B[rows_B].mean())
        if source.gradient_coefficient and source.policy_labels:
            term_B = label_term(pairs.forward_B, pairs.backward_B, pairs.labels_B, pairs.preference_logits_B)
            terms_B = terms_B + source.gradient_coefficient * term_B
            self._record(f"{source.name}/label_term", term_B[rows_B].abs().mean())
        if source.kl_coefficient:
            terms_B = terms_B + source.kl_coefficient * pairs.kl_B
            self._record(f"{source.name}/kl", pairs.kl_B[rows_B].mean())
        return terms_B

    def _pair_losses(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> PairLosses:
        batch = TokenBatch(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"])
        num_pairs = len(inputs["label"])
        predicted = response_logits(model, batch)
        with torch.no_grad():
            anchored = response_logits(self.ref_model, batch)
        logps_SC = token_logps(predicted.logits_BCV, predicted.targets_BC)
        logps_S = sequence_logps(logps_SC, predicted.mask_BC)
        reference_logps_S = sequence_logps(token_logps(anchored.logits_BCV, anchored.targets_BC), anchored.mask_BC)
        ratios_S = logps_S - reference_logps_S
        chosen_B, rejected_B = ratios_S[:num_pairs], ratios_S[num_pairs : 2 * num_pairs]
        lengths_S = batch.completion_mask_BT.sum(-1)
        margins_B = preference_margin(
            chosen_B, rejected_B, lengths_S[:num_pairs], lengths_S[num_pairs : 2 * num_pairs], self.loss_name
        )
        preference_logits_B = self.beta * (chosen_B - rejected_B)
        labels_B = torch.where(self._rows(inputs, "policy_labels"), policy_labels(preference_logits_B), inputs["label"])
        return PairLosses(
            losses_B=expected_preference_loss(margins_B, labels_B, self.loss_name, self.beta),
            forward_B=preference_loss(margins_B, self.loss_name, self.beta),
            backward_B=preference_loss(-margins_B, self.loss_name, self.beta),
            labels_B=labels_B,
            margins_B=margins_B,
            preference_logits_B=preference_logits_B,
            response_logps_B=torch.zeros_like(chosen_B).index_add(0, inputs["pair_of"], logps_S),
            kl_B=self._pair_kl(predicted, anchored, logps_SC, num_pairs),
        )

    def _pair_kl(
        self, predicted: ResponseLogits, anchored: ResponseLogits, logps_SC: torch.Tensor, num_pairs: int
    ) -> torch.Tensor:
        if not torch.is_grad_enabled() or not any(source.kl_coefficient for source in self.sources):
            return torch.zeros(num_pairs, device=logps_SC.device)
        both = slice(0, 2 * num_pairs)
        kl_SC = token_kl(predicted.logits_BCV[both], anchored.logits_BCV[both])
        kl_S = sequence_kl(kl_SC, logps_SC[both], predicted.mask_BC[both], self.kl_gradient)
        return kl_S.view(2, num_pairs).mean(0)

    def _rows(self, inputs: dict[str, torch.Tensor], flag: str) -> torch.Tensor:
        """(B,) whether each pair's source has a flag."""
        flags = torch.tensor([getattr(source, flag) for source in self.sources], device=inputs["source"].device)
        return flags[inputs["source"]]

    def _weights(self, pairs: PairLosses, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B,) importance weights of the pairs whose responses come from the policy; 1 for the others."""
        ones_B = torch.ones_like(pairs.losses_B)
        if self.importance_weight_cap is None:
            return ones_B
        found = importance_weights(pairs.response_logps_B, inputs["sampled_logp"], self.importance_weight_cap)
        sampled_B = self._rows(inputs, "policy_responses")
        if sampled_B.any():
            self._record("importance_weight", found.weights_B[sampled_B].mean())
            self._record("importance_weight_truncated", found.truncated_B[sampled_B].float().mean())
        return torch.where(sampled_B, found.weights_B, ones_B)

    def _baselines(self, inputs: dict[str, torch.Tensor], pairs: PairLosses, position: int) -> torch.Tensor:
        """(B,) leave-one-out baselines from a source's pairs in the whole global batch."""
        if "global_loss" in inputs:
            losses_G, sources_G, group_ids_G = (inputs[f"global_{name}"] for name in ("loss", "source", "group_id"))
        else:
            losses_G, sources_G, group_ids_G = (
                self._gathered(values) for values in (pairs.losses_B.detach(), inputs["source"], inputs["group_id"])
            )
        others_G = sources_G == position
        zero_margin_loss = preference_loss(torch.zeros(1), self.loss_name, self.beta).item()
        return leave_one_out_baseline(losses_G[others_G], group_ids_G[others_G], inputs["group_id"], zero_margin_loss)

    def _gathered(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.gather(values)

    def _record_source(self, name: str, pairs: PairLosses, rows_B: torch.Tensor) -> None:
        self._record(f"{name}/loss", pairs.losses_B[rows_B].mean())
        self._record(f"{name}/accuracy", (pairs.margins_B[rows_B] > 0).float().mean())
        self._record(f"{name}/margin", pairs.margins_B[rows_B].mean())

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
                    hint="look at this round's pairs; a lower train.learning_rate or a higher method.beta needs "
                    "another output_dir, or --restart",
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
    return PreferenceTrainer(
        policy,
        reference,
        source_terms(recipe),
        dpo_config(recipe, scratch_dir, use_cache=policy.model.config.use_cache),
        kl_gradient=recipe.method.kl.gradient,
        importance_weight_cap=recipe.method.importance_weight_cap,
        schedule_spans_run=recipe.train.schedule == "run",
        reset_optimizer=recipe.train.reset_optimizer_each_round,
        on_step=on_step,
    )


def source_terms(recipe: Recipe) -> list[SourceTerms]:
    """The mixture's sources as the loss sees them.

    KL is a mean over the responses that carry it. A batch holds exact shares, so dividing by the share of the carrying
    sources makes it one, whatever the micro-batches.
    """
    sources, kl = recipe.method.sources.in_use(), recipe.method.kl
    carries = {name: kl.on == "all" or section.policy_responses for name, section in sources.items()}
    share = sum(section.mixing for name, section in sources.items() if carries[name])
    return [
        SourceTerms(
            name,
            gradient_coefficient=getattr(section, "gradient", 0.0),
            policy_responses=section.policy_responses,
            policy_labels=section.policy_labels,
            kl_coefficient=kl.coefficient / share if carries[name] else 0.0,
        )
        for name, section in sources.items()
    ]
