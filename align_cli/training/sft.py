"""The supervised warm start, with transformers' own Trainer.

TRL's SFTTrainer is not used: its fused LM head has no fast path on CPUs, and demonstrations here are token ids already.
The loss is on the completion's tokens alone. Sequences of similar length share a batch, in a seeded order: on short
texts padding would otherwise be half of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from align_cli.models.load import Policy
from align_cli.recipe.schema import SftSection
from align_cli.seeds import derive_seed

IGNORED = -100
"""The label that transformers leaves out of the loss."""


def train_supervised(
    policy: Policy,
    demonstrations: Sequence[tuple[list[int], list[int]]],
    section: SftSection,
    *,
    seed: int,
    scratch_dir: Path,
    on_step: Callable[[], None],
) -> list[float]:
    """Train a model in place on demonstrations.

    Args:
        policy: model and tokenizer.
        demonstrations: (prompt ids, completion ids), the completion with its end-of-sequence token.
        section: steps, batch size, learning rate.
        seed: the run's seed.
        scratch_dir: a folder that the trainer may write to; nothing in it is kept.
        on_step: called after every optimizer step.

    Returns:
        The loss of every step, in nats a token.
    """
    from transformers import (
        DataCollatorForSeq2Seq,
        PrinterCallback,
        ProgressCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    losses: list[float] = []

    class StepCallback(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_step()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    rows = [
        {
            "input_ids": prompt_ids + completion_ids,
            "attention_mask": [1] * (len(prompt_ids) + len(completion_ids)),
            "labels": [IGNORED] * len(prompt_ids) + completion_ids,
        }
        for prompt_ids, completion_ids in demonstrations
    ]
    arguments = TrainingArguments(
        output_dir=str(scratch_dir),
        max_steps=section.max_steps,
        per_device_train_batch_size=section.per_device_train_batch_size,
        learning_rate=section.learning_rate,
        warmup_steps=section.warmup_steps,
        weight_decay=section.weight_decay,
        lr_scheduler_type="cosine",
        seed=derive_seed(seed, "sft") % 2**32,
        train_sampling_strategy="group_by_length",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cache=policy.model.config.use_cache,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=policy.model,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(policy.tokenizer, label_pad_token_id=IGNORED),
        processing_class=policy.tokenizer,
        callbacks=[StepCallback()],
    )
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    trainer.train()
    policy.model.eval()
    return losses
