"""What is told of each step: the means over its pairs, by source, and how large a gradient each source makes.

A step whose loss or gradient is no finite number ends the training. Mixed into the trainer of preferences.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from align_cli.errors import DivergedError
from align_cli.training.collated import Inputs, select_pairs
from align_cli.training.figures import Figures
from align_cli.training.passes import Passes
from align_cli.training.ranks import added

TRLS_RUNNING_TOTALS = ("num_tokens",)
"""Figures of TRL's that count since the process began, and so differ in a run that was interrupted."""


class StepRecords(Passes):
    """Keeps the records of a trainer's steps.

    Attributes:
        figures: of the step at hand.
        source_grad_norms: when the gradient norm of each source is measured: `round` (its first step), `step`, `never`.
    """

    _metrics: Any

    def record(self, source_grad_norms: str) -> None:
        """Set what is measured; to be called once, when the trainer is made."""
        self.source_grad_norms = source_grad_norms
        self.figures = Figures()

    def measure_sources(self, parts: list[Inputs]) -> None:
        """The norm of what each source adds to the step's gradient, from its pairs alone: one more step's work in all.

        Gradients are made one source after the other where the step's own will be, so this takes no more memory.

        Args:
            parts: the step's passes.
        """
        objective = self.objective
        if objective is None or len(objective.sources) < 2 or not self._is_to_measure():
            return
        for position, source in enumerate(objective.sources):
            self.model.zero_grad()
            for part in parts:
                rows_B = part["source"] == position
                of_source = select_pairs(part, rows_B) if self.sharded is None else part
                if len(of_source["source"]):
                    with self.compute_loss_context_manager():
                        values = self._values(objective, self.model, of_source, Figures())
                    values = values if self.sharded is None else values * rows_B
                    (self.gradient_scale * values.sum() / part["global_num_pairs"]).backward()
            self.add_up()
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self.figures.add(f"{source.name}/grad_norm", torch.tensor([norm.item()]))
        self.model.zero_grad()

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
                if self.objective.kl_control is not None:
                    figures["kl_coefficient"] = self.objective.kl_weight
                    self.objective = self.objective.held_after(figures["kl"])
                if len(self.objective.sources) == 1 and self.source_grad_norms != "never":
                    figures[f"{self.objective.sources[0].name}/grad_norm"] = own["grad_norm"]
                self._metrics["train"].update({name: [value] for name, value in figures.items()})
            rate = {"learning_rate": logs["learning_rate"]}
            self.step_records.append({"step": self.state.global_step, **own, **rate, **dict(sorted(figures.items()))})
            self.step_is_logged()
        super().log(logs, start_time)  # type: ignore[misc]

    def _is_to_measure(self) -> bool:
        return self.source_grad_norms == "step" or (self.source_grad_norms == "round" and not self.step_records)

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
