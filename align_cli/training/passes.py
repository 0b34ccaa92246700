"""What goes through the models at once: a step's batch in parts, each with what it has to know of the whole.

Two moments: before a round's first step, what can be known of its pairs then (`know`); at each step, the batch in
forward passes, with the reference's columns, the numbers of its carriers and the losses that baselines average. Mixed
into the trainer of preferences; which loss they are for says `objective`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from align_cli.models.scoring import reference_scores
from align_cli.training.batches import TrainingPair
from align_cli.training.collated import Inputs, cut_further, cut_into_passes, select_pairs, token_batch
from align_cli.training.figures import Figures
from align_cli.training.known import Key, Logps, ReferenceLogps, RoundsReference, keys_of
from align_cli.training.objective import Carriers, Objective, carriers, flags, pairs_per_carrier
from align_cli.training.one_of_several import OneOfSeveral
from align_cli.training.pair_losses import pair_losses, reference_columns, sampled_losses
from align_cli.training.pair_values import GLOBAL_COLUMNS, GlobalLosses, pair_values


class Passes(OneOfSeveral):
    """Cuts the batches of a trainer.

    Attributes:
        objective: the loss; None for TRL's own.
        pairs_per_pass: the most pairs in a forward pass.
        tokens_per_pass: the most tokens of its sequences, as `cut_into_passes` counts them; None for any number.
    """

    objective: Objective | None
    _prepare_inputs: Any
    compute_loss_context_manager: Any

    def cut_by(self, pairs_per_pass: int, tokens_per_pass: int | None) -> None:
        """Set how large a forward pass may be; to be called once, when the trainer is made."""
        self.pairs_per_pass, self.tokens_per_pass = pairs_per_pass, tokens_per_pass
        self._most_pairs = pairs_per_pass
        self._reference_logps: ReferenceLogps | None = None
        self._knows_sampled_losses = False

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

    def know(self, batches: list[list[TrainingPair]], reference: RoundsReference | None = None) -> None:
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
