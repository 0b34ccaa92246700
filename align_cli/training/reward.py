"""Reward models, with TRL's RewardTrainer: all weights, or adapters beside the head.

The loss is TRL's, −log σ(r_chosen − r_rejected − margin), with its term that centres rewards. A soft label q, which TRL
has not, adds (1 − q) times the difference: since log σ(−h) = log σ(h) − h, that is the cross-entropy of q. Where
training stands is kept as in the warm start, with what is trained alone among the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import RewardTrainer

from align_cli.errors import AlignError, first_line
from align_cli.models.load import Policy, uses_cache
from align_cli.models.lora import without_advice
from align_cli.models.memory import out_of_memory_as_memory_error
from align_cli.models.reward_bases import RewardBase
from align_cli.recipe.sections.reward import RewardSection
from align_cli.seeds import derive_seed
from align_cli.training.arguments import reward_config
from align_cli.training.checkpoints import TrainingState
from align_cli.training.dropout import switch_off_dropout
from align_cli.training.resumable import Resumable
from align_cli.training.reward_rows import RewardCollator, RewardRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"
FIGURES = ("accuracy", "margin", "mean_reward")
"""Of TRL's figures of a step, those that are kept; some of the others count since the process began."""


class FittedModel(Policy):
    """A reward model in training: what of it is trained, as checkpoints hold it."""

    def save_weights(self, folder: Path) -> None:
        """What is trained, by the parameters' names."""
        from safetensors.torch import save_file

        tensors = {name: tensor.detach().contiguous() for name, tensor in self._trained().items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    def restore(self, folder: Path) -> None:
        """Take what a checkpoint holds."""
        from safetensors.torch import load_file

        kept = load_file(folder / WEIGHTS)
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(kept[name])

    def whole(self) -> PreTrainedModel:
        """The model as transformers has it, adapters merged into its weights; it cannot be trained further."""
        merge = getattr(self.model, "merge_and_unload", None)
        return self.model if merge is None else merge()

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}


def to_be_fitted(base: RewardBase, section: RewardSection, seed: int) -> FittedModel:
    """The base with whatever is trained of it: all weights, or new adapters and the head.

    Raises:
        AlignError: if there is no place for the adapters that the section asks for.
    """
    model: Any = base.model
    if section.lora is not None:
        from peft import LoraConfig, get_peft_model

        lora = section.lora
        with _faults_of_adapters(), without_advice(), torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "reward", "lora"))
            config = LoraConfig(
                task_type="SEQ_CLS",
                r=lora.rank,
                lora_alpha=lora.alpha,
                target_modules=lora.target_modules,
                modules_to_save=[*base.head, *lora.modules_to_save],
                init_lora_weights="gaussian" if lora.init == "gaussian" else True,
                use_rslora=lora.use_rslora,
                use_dora=lora.use_dora,
            )
            model = get_peft_model(model, config)
    return FittedModel(model, base.reader.tokenizer, "")


@contextmanager
def _faults_of_adapters() -> Iterator[None]:
    """What peft says of adapters that the model has no place for.

    Raises:
        AlignError: in its words.
    """
    try:
        yield
    except ValueError as error:
        raise AlignError(
            f"the model has no place for these adapters: {first_line(error)}",
            where="reward.lora",
            hint="set reward.lora.target_modules to all-linear, or to names of layers that the model has",
        ) from error


class RewardModelTrainer(Resumable, RewardTrainer):
    """Fits a reward model, from whatever step a `TrainingState` stands at.

    Args:
        fitted: the model; trained in place.
        base: what it is made of.
        section: steps, batch size, learning rate.
        rows: the pairs.
        seed: the run's seed.
        scratch_dir: a folder that the trainer may write to; nothing in it is kept.
        on_step: called after every optimizer step.
    """

    def __init__(
        self,
        fitted: FittedModel,
        base: RewardBase,
        section: RewardSection,
        rows: Sequence[RewardRow],
        *,
        seed: int,
        scratch_dir: Path,
        on_step: Callable[[], None],
    ) -> None:
        self._section, self._rows, self._run_seed = section, rows, seed
        num_steps = num_reward_steps(section, len(rows))
        super().__init__(
            model=fitted.model,
            args=reward_config(
                section,
                scratch_dir,
                num_steps,
                seed=seed,
                device=base.model.device,
                use_cache=uses_cache(base.model),
            ),
            # TRL insists on a dataset when it is made; batches are ours.
            train_dataset=Dataset.from_list([{"chosen_ids": [0], "rejected_ids": [0]}]),
            data_collator=RewardCollator(base.reader, rows),
            processing_class=fitted.tokenizer,
        )
        switch_off_dropout(fitted.model)
        self.listen(on_step)

    def fit(
        self,
        start: TrainingState,
        optimizer_state: dict[str, Any] | None,
        keep: Callable[[TrainingState], None],
        keep_every: int | None,
    ) -> list[dict[str, float]]:
        """Train to the last step.

        Args:
            start: where training stands: at step 0, or where a killed process left off.
            optimizer_state: what belongs to `start`.
            keep: called with where training stands after every `keep_every` steps but the last.
            keep_every: steps between those calls; None for none.

        Returns:
            The figures of every step.
        """
        batches = reward_batches(self._rows, self._section, self._run_seed)
        self.plan(batches, start, start.global_step, optimizer_state, self.args.seed, keep, keep_every)
        with out_of_memory_as_memory_error():
            self.train()
        self.model.eval()
        return self.step_records

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("probability", None)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if labels is not None:
            chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
            loss = loss + ((1 - labels) * (chosen - rejected - inputs.get("margin", 0.0))).mean()
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            own = {name: math.fsum(found) / len(found) for name in FIGURES if (found := self._metrics["train"][name])}
            learnt = {name: logs[name] for name in ("loss", "grad_norm", "learning_rate")}
            self.step_records.append({"step": self.state.global_step, **learnt, **own})
            self.step_is_logged()
        super().log(logs, start_time)


def num_reward_steps(section: RewardSection, num_rows: int) -> int:
    """Optimizer steps: so many, or as many as make the passes over the pairs, the last one whole."""
    if section.max_steps is not None:
        return section.max_steps
    return max(1, math.ceil((section.num_train_epochs or 1.0) * num_rows / section.global_batch_size))


def reward_batches(rows: Sequence[RewardRow], section: RewardSection, seed: int) -> list[list[RewardRow]]:
    """A global batch a step: each pass over the pairs in a seeded order, those of a length together."""
    lengths = [row.num_tokens for row in rows]

    def order() -> Any:
        for lap in count():
            generator = torch.Generator().manual_seed(derive_seed(seed, "reward", "order", lap))
            yield from get_length_grouped_indices(lengths, section.global_batch_size, generator=generator)

    walk, num_steps = order(), num_reward_steps(section, len(rows))
    return [[rows[index] for index in islice(walk, section.global_batch_size)] for _ in range(num_steps)]
