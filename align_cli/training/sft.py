"""The supervised warm start, with transformers' own Trainer.

TRL's SFTTrainer is not used: its fused LM head has no fast path on CPUs, and demonstrations here are token ids already.
The loss is on the completion's tokens alone. Sequences of similar length share a batch, in a seeded order: on short
texts padding would otherwise be half of the work.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices

from align_cli.data.lazy import Lazy
from align_cli.models.load import Policy, uses_cache
from align_cli.models.memory import out_of_memory_as_memory_error
from align_cli.recipe.sections.policy import SftSection
from align_cli.seeds import derive_seed
from align_cli.training.arguments import sft_arguments
from align_cli.training.checkpoints import TrainingState
from align_cli.training.resumable import Resumable

IGNORED = -100
"""The label that transformers leaves out of the loss."""

Demonstrations = Sequence[tuple[list[int], list[int]]]
"""(prompt ids, completion ids), the completion with its end-of-sequence token."""


class MeasuredDemonstrations(Lazy[tuple[list[int], list[int]]]):
    """Demonstrations that are made when they are drawn, and whose lengths are known before."""

    @property
    @abstractmethod
    def lengths(self) -> Sequence[int]:
        """Tokens of each, prompt and completion together."""


class SupervisedTrainer(Resumable, Trainer):
    """Trains a model on demonstrations, from whatever step a `TrainingState` stands at.

    Args:
        policy: model and tokenizer; the model is trained in place.
        section: steps, batch size, learning rate.
        seed: the run's seed.
        scratch_dir: a folder that the trainer may write to; nothing in it is kept.
        on_step: called after every optimizer step.
    """

    def __init__(
        self, policy: Policy, section: SftSection, *, seed: int, scratch_dir: Path, on_step: Callable[[], None]
    ) -> None:
        self.section, self.run_seed = section, seed
        super().__init__(
            model=policy.model,
            args=sft_arguments(
                section, scratch_dir, seed=seed, device=policy.model.device, use_cache=uses_cache(policy.model)
            ),
            train_dataset=[{}],
            data_collator=DataCollatorForSeq2Seq(policy.tokenizer, label_pad_token_id=IGNORED),
            processing_class=policy.tokenizer,
        )
        self.listen(on_step)

    def train_on(
        self,
        demonstrations: Demonstrations,
        start: TrainingState,
        optimizer_state: dict[str, Any] | None,
        keep: Callable[[TrainingState], None],
        keep_every: int | None,
    ) -> list[float]:
        """Train to the last step.

        Args:
            demonstrations: what to learn.
            start: where training stands: at step 0, or where a killed process left off.
            optimizer_state: what belongs to `start`.
            keep: called with where training stands after every `keep_every` steps but the last.
            keep_every: steps between those calls; None for none.

        Returns:
            The loss of every step, in nats a token.
        """
        section = self.section
        order = length_grouped_order(_lengths(demonstrations), section, self.run_seed)
        size = section.per_device_train_batch_size
        batches = [[_row(*demonstrations[index]) for index in islice(order, size)] for _ in range(section.max_steps)]
        self.plan(batches, start, start.global_step, optimizer_state, self.args.seed, keep, keep_every)
        with out_of_memory_as_memory_error():
            self.train()
        self.model.eval()
        return [record["loss"] for record in self.step_records]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            self.step_records.append({"step": self.state.global_step, "loss": logs["loss"]})
            self.step_is_logged()
        super().log(logs, start_time)


def length_grouped_order(lengths: Sequence[int], section: SftSection, seed: int) -> Iterator[int]:
    """An endless walk through the demonstrations: each pass in a seeded order, batch by batch of similar length."""
    for lap in count():
        generator = torch.Generator().manual_seed(derive_seed(seed, "sft", lap))
        yield from get_length_grouped_indices(lengths, section.per_device_train_batch_size, generator=generator)


def _lengths(demonstrations: Demonstrations) -> Sequence[int]:
    if isinstance(demonstrations, MeasuredDemonstrations):
        return demonstrations.lengths
    return [len(prompt_ids) + len(completion_ids) for prompt_ids, completion_ids in demonstrations]


def _row(prompt_ids: list[int], completion_ids: list[int]) -> dict[str, list[int]]:
    return {
        "input_ids": prompt_ids + completion_ids,
        "attention_mask": [1] * (len(prompt_ids) + len(completion_ids)),
        "labels": [IGNORED] * len(prompt_ids) + completion_ids,
    }
