"""The one subclass of TRL's DPOTrainer: all rounds of a run go through a single instance of it.

What it changes, and why (TRL 1.16; each point has a contract test):

- `_compute_loss` is replaced by `objective`: TRL's is one private block, and the bilevel terms need the pieces in
  between. At coefficients 0 with hard labels it equals TRL's loss and gradients for `sigmoid`, `ipo` and `hinge`.
  Without an objective TRL's own block runs, for the losses that TRL alone has.
- `_prepare_dataset` hands our token ids through; TRL's would tokenise again and add end-of-sequence tokens.
- transformers sees one batch a step. `training_step` cuts it into forward passes, by pairs and by tokens, pairs of a
  length together; what baselines and the weights of KL and optimism have to know of the whole batch is found before,
  by what is `known` of its pairs where that is enough.
- Several processes train together by `ranks`: each takes a share of every batch, and what is of the whole batch is
  found over all of them. transformers and accelerate know of none of it, and take each process for the only one.
- `.train()` is called once a round, on the batches that `batches.Mixture` chose, and goes on where the last round, or a
  killed process, left off: see `resumable`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from align_cli.errors import DivergedError, OutOfMemoryError
from align_cli.models.load import Policy, uses_cache
from align_cli.models.memory import out_of_memory_as_memory_error
from align_cli.models.quantized import adapters_in_float32
from align_cli.models.scoring import reference_scores
from align_cli.recipe import Recipe
from align_cli.seeds import derive_seed
from align_cli.training.arguments import dpo_config
from align_cli.training.batches import (
    MODEL_INPUTS,
    PairCollator,
    TrainingPair,
    cut_further,
    cut_into_passes,
    select_pairs,
)
from align_cli.training.checkpoints import TrainingState, WrittenParts, split_optimizer_state
from align_cli.training.dropout import switch_off_dropout
from align_cli.training.known import Key, Logps, ReferenceLogps, RoundsReference, keys_of
from align_cli.training.masters import state_with_masters
from align_cli.training.objective import (
    Carriers,
    Figures,
    GlobalLosses,
    Inputs,
    Objective,
    carriers,
    flags,
    pair_losses,
    pair_values,
    pairs_per_carrier,
    recipe_objective,
    reference_columns,
    sampled_losses,
    token_batch,
)
from align_cli.training.ranks import ALONE, Ranks, added
from align_cli.training.resumable import Resumable
from align_cli.training.shares import share_of

if TYPE_CHECKING:
    from align_cli.training.parts import MomentsInParts
    from align_cli.training.sharded import ShardedModel, Sharding

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
        pairs_per_pass: the most pairs in a forward pass; None for whole batches.
        tokens_per_pass: the most tokens of its sequences, as `cut_into_passes` counts them. None for any number.
        source_grad_norms: when the gradient norm of each source is measured: `round` (its first step), `step`, `never`.
        schedule_spans_run: whether the learning-rate schedule goes on across rounds.
        reset_optimizer: whether each round begins with a new optimizer.
        on_step: called after every optimizer step.
        ranks: the processes that train together; `args` has this one's share of a batch.
        sharding: how the model is split over them; None lets each have all of it.
    """

    ref_model: torch.nn.Module

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
        self.objective = objective
        self.ranks = ranks
        self.sharded: ShardedModel | None = None
        self._whole_optimizer_state: dict[str, Any] | None = None
        if sharding is not None:
            from align_cli.training.sharded import ShardedModel

            self.sharded = ShardedModel(policy, reference, sharding, ranks.number)
            policy = replace(policy, model=self.sharded.twin)
        self.pairs_per_pass = pairs_per_pass or args.per_device_train_batch_size
        self.tokens_per_pass = tokens_per_pass
        self.source_grad_norms = source_grad_norms
        self.schedule_spans_run = schedule_spans_run
        self.reset_optimizer = reset_optimizer
        self.figures = Figures()
        self._passes: list[Inputs] = []
        self._reference_logps: ReferenceLogps | None = None
        self._knows_sampled_losses = False
        self._most_pairs = self.pairs_per_pass
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
            self.objective = recipe_objective(recipe)

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
            self._know(batches, reference)
            with self._split():
                self.train()
        self.model.eval()
        return TrainingState(
            round=start.round + 1,
            global_step=self.steps_before + len(batches),
            parent=None,
            scheduler=self.lr_scheduler.state_dict(),
        )

    @contextmanager
    def _split(self) -> Iterator[None]:
        """While training, the weights are where they are trained.

        Raises:
            OutOfMemoryError: if the memory of one process does not hold its part: the others wait for it in the midst
                of a forward pass, where no word of it reaches them.
        """
        if self.sharded is None:
            yield
            return
        self.sharded.take_in()
        of_whole, self.ref_model = self.ref_model, self.sharded.reference
        try:
            with out_of_memory_as_memory_error():
                yield
        except DivergedError:  # which all of them find
            self.sharded.give_back()
            raise
        except MemoryError as error:
            raise OutOfMemoryError(
                f"out of memory: {error}",
                where="train",
                hint="halve train.per_device_train_batch_size and double train.gradient_accumulation_steps, which is "
                "the same global batch; then run the same command again",
            ) from None
        finally:
            self.ref_model = of_whole
        self.sharded.give_back()

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """The policy's model has the weights that are trained, while it is saved."""
        if self.sharded is None or self.writes_parts:
            yield
            return
        self._whole_optimizer_state = self._gathered_state(self.sharded)
        self.sharded.give_back(to_save=True)
        yield
        self.sharded.take_in()
        self._whole_optimizer_state = None

    def optimizer_state(self) -> dict[str, Any] | None:
        """What a checkpoint keeps of the optimizer, on rank 0. Where it is split, every process has to ask; while
        `as_saved` lasts, none has to."""
        if self.optimizer is None or self._whole_optimizer_state is not None:
            return self._whole_optimizer_state
        return state_with_masters(self.optimizer) if self.sharded is None else self._gathered_state(self.sharded)

    def _gathered_state(self, sharded: ShardedModel) -> dict[str, Any]:
        """Rank 0, which writes it, has it; in the others' memory there need be no room for it."""
        return sharded.whole_state(state_with_masters(self.optimizer), is_kept=self.ranks.rank == 0)

    @property
    def writes_parts(self) -> bool:
        """Whether what is kept within a round is written by each process, which holds a part of it."""
        return self.sharded is not None and self.sharded.writes_parts

    def write_parts(self, folder: Path | None = None) -> WrittenParts:
        """Write this process' part of where training stands, within a step; every process has to ask.

        Args:
            folder: what rank 0 asks for; the others write there too.
        """
        from align_cli.training.parts import write_parts

        place = self.ranks.leaders(folder)
        assert place is not None
        moments, rest = split_optimizer_state(state_with_masters(self.optimizer))
        return WrittenParts(write_parts(place, self.ranks, self.model, moments), rest)

    def own_state(self, state: Any) -> dict[int, dict[str, Any]]:
        """See `Resumable.own_state`; its parts where they are split."""
        from align_cli.training.parts import MomentsInParts

        if isinstance(state, MomentsInParts):
            return state.of(self.optimizer)
        whole = super().own_state(state)
        return whole if self.sharded is None else self.sharded.own_state(whole, self.optimizer)

    def _running_out_together(self) -> AbstractContextManager[None]:
        return self.ranks.running_out_together() if self.sharded is None else nullcontext()

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

    def halve_passes(self) -> bool:
        """Put at most half as many pairs into a forward pass, and make as many more of them in a step.

        Returns:
            Whether there was anything to halve.
        """
        global_batch = self.args.per_device_train_batch_size
        most = min(self.pairs_per_pass, self._most_pairs)
        smaller = [size for size in range(1, most // 2 + 1) if global_batch % size == 0]
        if smaller:
            self.pairs_per_pass = smaller[-1]
        return bool(smaller)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """A step's batch, whose passes are made ready."""
        (batch,), num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        with self._running_out_together():
            self._passes = self.passes(batch)
            if self.objective is not None and self._measures_sources():
                self._measure_sources(self.objective, self._passes)
        return [batch], num_items

    def training_step(self, model: torch.nn.Module, inputs: Inputs, num_items_in_batch: Any = None) -> torch.Tensor:
        """The passes of the step's batch, forward and backward; their losses add up to its loss."""
        losses = []
        with self._running_out_together():
            for part in self._passes:
                losses.append(super().training_step(model, part, num_items_in_batch))
        self._passes = []
        self._add_up()
        return torch.stack(losses).sum()

    def _add_up(self) -> None:
        """The gradients are of the whole batch; those of a split model were added up on the backward pass."""
        if self.sharded is None:
            self.ranks.add_up(self.model.parameters())

    def _know(self, batches: list[list[TrainingPair]], reference: RoundsReference | None = None) -> None:
        """Find out what can be known of a round's pairs before a step."""
        objective, reference = self.objective, reference or RoundsReference()
        if objective is None or objective.kl_coefficient:
            reference.fetch()
        if objective is None:
            return
        self._reference_logps = ReferenceLogps(batches, objective)
        self._reference_logps.learn(self._ask_reference, reference, self.ranks.leaders)
        if not objective.kl_coefficient:
            reference.let_go()
        carrying = [source.carries_response_term for source in objective.sources]
        self._knows_sampled_losses = all(
            pair.policy_logps is not None for batch in batches for pair in batch if carrying[pair.source]
        )

    def _ask_reference(self, pairs: Sequence[TrainingPair]) -> dict[Key, Logps]:
        """What the reference says of the two responses of pairs, in passes like those of training."""
        with self.ranks.running_out_together():
            own = self._asked_here(pairs[self.ranks.rank :: self.ranks.number])
        return {key: logps for each in self.ranks.heard(own) for key, logps in each.items()}

    def _asked_here(self, pairs: Sequence[TrainingPair]) -> dict[Key, Logps]:
        """What it says of this process' part of them."""
        assert self.objective is not None
        if not pairs:
            return {}
        of_two = [replace(pair, other_ids=(), response_ids=pair.response_ids[:2]) for pair in pairs]
        batch = self._prepare_inputs(self.data_collator(of_two))
        found: dict[Key, Logps] = {}
        for part in self._cut(self.objective, self.ref_model, batch):
            with self.compute_loss_context_manager():
                scores = reference_scores(self.ref_model, token_batch(part), plain=self.objective.plain)
            chosen_B, rejected_B = scores.logps_B.view(2, -1).tolist()
            found.update(zip(keys_of(part), zip(chosen_B, rejected_B, strict=True), strict=True))
        return found

    def passes(self, batch: Inputs) -> list[Inputs]:
        """What goes through the models at once: parts of a step's batch, with what they have to know of the whole.

        That is how many pairs there are and how many of them carry KL and optimism, what the reference says of their
        responses and the losses that baselines average. Where all of a round's are known, these are the losses at
        sampling, and by how much the losses of the step before had moved since; else those of the weights as they are,
        which costs a pass more where the batch is cut.

        Args:
            batch: the collated batch; it takes in what is the whole step's.
        """
        objective = self.objective
        batch["global_num_pairs"] = torch.tensor(len(batch["label"]) * self.ranks.number)  # each has as many
        if objective is None:
            return cut_into_passes(batch, self.pairs_per_pass)
        whole = Carriers(*self.ranks.gathered(*carriers(objective, batch)))
        batch.update(pairs_per_carrier(whole))
        if self._reference_logps is not None:
            batch["reference_logps"] = self._reference_logps.of(batch)
        parts = self._cut(objective, self.model, batch)
        if self.sharded is not None:  # whose processes take part in each other's passes
            parts = cut_further(parts, max(self.ranks.heard(len(parts))))
        self._most_pairs = max(len(part["label"]) for part in parts)
        in_step = self.sharded is not None and self.sharded.has_reference
        for part in parts:
            with self.compute_loss_context_manager():
                part.update(reference_columns(objective, self.ref_model, part, in_step=in_step))
        is_whole = len(parts) == 1 and self.ranks.number == 1
        if objective.needs_baseline and (not is_whole or self._knows_sampled_losses):
            self._add_global_losses(objective, parts)
        return parts

    def _cut(self, objective: Objective, model: torch.nn.Module, batch: Inputs) -> list[Inputs]:
        """A batch in the passes that a model runs over it in."""
        reader = None if objective.plain else model
        return cut_into_passes(batch, self.pairs_per_pass, self.tokens_per_pass, by_length=True, reader=reader)

    def _compute_loss(self, model: torch.nn.Module, inputs: Inputs, return_outputs: bool) -> Any:
        if self.objective is None:
            return self._trl_loss(model, inputs, return_outputs)
        values = self._values(self.objective, model, inputs, self.figures)
        loss = self._gradient_scale * values.sum() / inputs.get("global_num_pairs", len(values))
        return (loss, None) if return_outputs else loss

    @property
    def _gradient_scale(self) -> int:
        """FSDP takes the mean of the processes' gradients, where their sum is meant."""
        return 1 if self.sharded is None else self.ranks.number

    def _trl_loss(self, model: torch.nn.Module, inputs: Inputs, return_outputs: bool) -> Any:
        found = super()._compute_loss(model, {name: inputs[name] for name in MODEL_INPUTS}, return_outputs)
        loss = found[0] if return_outputs else found
        self.figures.add("loss", loss.view(1))
        share = self._gradient_scale * len(inputs["label"]) / inputs["global_num_pairs"]
        return (share * loss, found[1]) if return_outputs else share * loss

    def _values(self, objective: Objective, model: torch.nn.Module, inputs: Inputs, figures: Figures) -> torch.Tensor:
        """(B,) the value of every pair."""
        pairs = pair_losses(objective, model, self.ref_model, inputs)
        if "global_loss" in inputs:
            batch = GlobalLosses(inputs["global_loss"], *(inputs[f"global_{name}"] for name in GLOBAL_COLUMNS))
        else:
            batch = GlobalLosses(pairs.losses_B.detach(), *(inputs[name] for name in GLOBAL_COLUMNS))
        return pair_values(objective, pairs, inputs, batch, figures)

    def _add_global_losses(self, objective: Objective, parts: list[Inputs]) -> None:
        """The losses that baselines average: of pairs that carry the response term, since others are none of theirs."""
        if self._knows_sampled_losses:
            for part in parts:
                part["sampled_loss"] = sampled_losses(objective, part)
        rows = [flags(objective, part, "carries_response_term") for part in parts]
        carrying = [select_pairs(part, rows_B) for part, rows_B in zip(parts, rows, strict=True)]
        if self._knows_sampled_losses:
            losses = [part["sampled_loss"] + self._drifts(objective, part) for part in carrying]
        else:
            with torch.no_grad(), self.compute_loss_context_manager():
                if self.sharded is None:
                    losses = [self._losses_now(objective, part) for part in carrying]
                else:
                    found = [self._losses_now(objective, part) for part in parts]
                    losses = [losses_B[rows_B] for losses_B, rows_B in zip(found, rows, strict=True)]
        columns = (losses, *([part[name] for part in carrying] for name in GLOBAL_COLUMNS))
        global_loss, *others = self.ranks.gathered(*(torch.cat(column) for column in columns))
        if not len(global_loss):
            return
        step = {"global_loss": global_loss}
        step |= {f"global_{name}": column for name, column in zip(GLOBAL_COLUMNS, others, strict=True)}
        for part in parts:
            part.update(step)

    def _losses_now(self, objective: Objective, inputs: Inputs) -> torch.Tensor:
        if not len(inputs["label"]):
            return inputs["label"]
        return pair_losses(objective, self.model, self.ref_model, inputs).losses_B

    def _drifts(self, objective: Objective, inputs: Inputs) -> torch.Tensor:
        """(B,) how far the losses of each pair's source had moved, at the round's step before, since sampling."""
        before = self.step_records[-1] if self.step_records else {}
        drifts = [before.get(f"{source.name}/loss_drift", 0.0) for source in objective.sources]
        return torch.tensor(drifts, device=inputs["source"].device)[inputs["source"]]

    def _measures_sources(self) -> bool:
        if self.objective is None or len(self.objective.sources) < 2 or self.source_grad_norms == "never":
            return False
        return self.source_grad_norms == "step" or not self.step_records

    def _measure_sources(self, objective: Objective, parts: list[Inputs]) -> None:
        """The norm of what each source adds to the step's gradient, from its pairs alone: one more step's work in all.

        Gradients are made one source after the other where the step's own will be, so this takes no more memory.
        """
        for position, source in enumerate(objective.sources):
            self.model.zero_grad()
            for part in parts:
                rows_B = part["source"] == position
                of_source = select_pairs(part, rows_B) if self.sharded is None else part
                if len(of_source["source"]):
                    with self.compute_loss_context_manager():
                        values = self._values(objective, self.model, of_source, Figures())
                    values = values if self.sharded is None else values * rows_B
                    (self._gradient_scale * values.sum() / part["global_num_pairs"]).backward()
            self._add_up()
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self.figures.add(f"{source.name}/grad_norm", torch.tensor([norm.item()]))
        self.model.zero_grad()

    def _step_figures(self) -> dict[str, float]:
        """The means of a step over the pairs of all ranks, by name; of TRL's own loss, its metrics too."""
        sums = self.figures.take_sums()
        if self.objective is None:
            found = self._metrics["train"].items()
            sums |= {
                name: (sum(each), float(len(each))) for name, each in found if name not in TRLS_RUNNING_TOTALS and each
            }
        totals = added(self.ranks.heard(sums))
        return {name: total / count for name, (total, count) in sorted(totals.items()) if count}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep every step's figures; then as TRL does, for trackers of transformers' own."""
        if "loss" in logs:
            figures = self._step_figures()
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
            rate = {"learning_rate": logs["learning_rate"]}
            self.step_records.append({"step": self.state.global_step, **own, **rate, **dict(sorted(figures.items()))})
            self.step_is_logged()
        super().log(logs, start_time)


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
