"""In the limit of coefficients 0, hard labels and no KL, align's training is TRL's."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from align_cli.models.load import Policy, load_policy
from align_cli.playground.model import make_policy
from align_cli.training.batches import PairCollator, TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.trainer import PreferenceTrainer, SourceTerms

LOSS_TYPES = ["sigmoid", "ipo", "hinge"]
Loader = Callable[[], tuple[Policy, Policy]]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """A policy and another reference, always the same weights, always fresh objects."""
    folders = [tmp_path_factory.mktemp(f"seed{seed}") for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        make_policy(folder, seed)

    def load_both() -> tuple[Policy, Policy]:
        policy, reference = (load_policy(folder) for folder in folders)
        return policy, reference

    return load_both


@pytest.fixture(scope="module")
def pairs() -> list[TrainingPair]:
    """Sixteen pairs of random tokens, of many lengths."""
    rng = random.Random(0)

    def tokens(least: int, most: int) -> list[int]:
        return [rng.randrange(5, 150) for _ in range(rng.randint(least, most))]

    return [TrainingPair(tokens(2, 9), tokens(1, 12), tokens(1, 12), 1.0, 0, index, index) for index in range(16)]


def arguments(folder: Path, loss_type: str, **more: Any) -> DPOConfig:
    fixed: dict[str, Any] = {
        "bf16": False,
        "activation_checkpointing": False,
        "max_length": None,
        "save_strategy": "no",
    }
    quiet = {
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }
    return DPOConfig(output_dir=str(folder), beta=0.1, loss_type=[loss_type], **fixed, **quiet, **more)


def ours(policy: Policy, reference: Policy, args: DPOConfig, coefficient: float = 0.0) -> PreferenceTrainer:
    return PreferenceTrainer(policy, reference.model, [SourceTerms("dpr", coefficient, policy_responses=True)], args)


def trl_trainer(policy: Policy, reference: Policy, args: DPOConfig, pairs: list[TrainingPair]) -> DPOTrainer:
    """TRL's own trainer on the same token ids, which it would otherwise make from text."""

    class TokensPassThrough(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    rows = [
        {"prompt_ids": pair.prompt_ids, "chosen_ids": pair.chosen_ids, "rejected_ids": pair.rejected_ids}
        for pair in pairs
    ]
    return TokensPassThrough(
        policy.model, reference.model, args, processing_class=policy.tokenizer, train_dataset=Dataset.from_list(rows)
    )


def gradients(trainer: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradients_on_a_batch_are_trls(
    loss_type: str, load: Loader, pairs: list[TrainingPair], tmp_path: Path
) -> None:
    policy, reference = load()
    our_inputs = PairCollator(policy.tokenizer.pad_token_id)(pairs)
    our_loss, our_gradients = gradients(ours(policy, reference, arguments(tmp_path, loss_type)), our_inputs)
    their_policy, their_reference = load()
    theirs = trl_trainer(their_policy, their_reference, arguments(tmp_path, loss_type), pairs)
    their_inputs = theirs.data_collator([theirs.train_dataset[index] for index in range(len(pairs))])
    for key, tensor in their_inputs.items():
        assert torch.equal(tensor, our_inputs[key]), key
    their_loss, their_gradients = gradients(theirs, their_inputs)
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=1e-6)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(
            our_gradients[name], gradient, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_comparison_notices_a_coefficient(load: Loader, pairs: list[TrainingPair], tmp_path: Path) -> None:
    """The equality above can fail: a response term changes the gradients by far more than its tolerance."""
    found = []
    for coefficient in (0.0, 0.3):
        policy, reference = load()
        inputs = PairCollator(policy.tokenizer.pad_token_id)(pairs)
        trainer = ours(policy, reference, arguments(tmp_path, "sigmoid"), coefficient)
        found.append(gradients(trainer, inputs)[1])
    plain, bilevel = found
    assert max((plain[name] - bilevel[name]).abs().max().item() for name in plain) > 1e-3


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_weights_after_several_steps_are_trls(
    loss_type: str, load: Loader, pairs: list[TrainingPair], tmp_path: Path
) -> None:
    """Four steps of four pairs in the same order, with the same schedule.

    Plain gradient descent: Adam divides by the gradient's size, which blows rounding up where it is near zero.
    """
    steps = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.1, "optim": "sgd", "logging_steps": 1}
    policy, reference = load()
    trainer = ours(policy, reference, arguments(tmp_path, loss_type, **steps))
    batches = [pairs[start : start + 4] for start in range(0, 16, 4)]
    trainer.train_round(batches, TrainingState(round=0, global_step=0, parent=None))
    their_policy, their_reference = load()
    in_order = arguments(tmp_path, loss_type, train_sampling_strategy="sequential", **steps)
    theirs = trl_trainer(their_policy, their_reference, in_order, pairs)
    theirs.train()
    untrained = load()[0].model.state_dict()
    for name, weights in their_policy.model.state_dict().items():
        torch.testing.assert_close(policy.model.state_dict()[name], weights, rtol=1e-5, atol=1e-6)
        assert (weights - untrained[name]).abs().max() > 1e-5
