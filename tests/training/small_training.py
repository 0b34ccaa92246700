"""Training made small: two models, pairs of random tokens, and the trainer on them.

The models are the playground's, untrained, with their heads scaled up: log-ratios of a response are then some nats
instead of some hundredths, so that losses differ from pair to pair and the hinge has both of its sides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from trl import DPOConfig

from align_cli.models.load import Policy, load_policy
from align_cli.playground.model import make_policy
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.collated import PairCollator
from align_cli.training.objective import Objective
from align_cli.training.trainer import PreferenceTrainer

START = TrainingState(round=0, global_step=0, parent=None)
HEAD_SCALE = 10.0

Gradients = dict[str, torch.Tensor]
Records = Sequence[dict[str, float]]


class Models(NamedTuple):
    """A policy and another model that margins are taken against."""

    policy: Policy
    reference: Policy


def save_models(folder: Path) -> list[Path]:
    """Write both models; what `load_models` takes."""
    folders = [folder / "policy", folder / "reference"]
    for seed, place in enumerate(folders):
        make_policy(place, seed)
        policy = load_policy(place)
        policy.model.lm_head.weight.data.mul_(HEAD_SCALE)
        policy.model.save_pretrained(place)
    return folders


def load_models(folders: Sequence[Path]) -> Models:
    """Both models: always the same weights, always fresh objects."""
    return Models(*(load_policy(folder) for folder in folders))


def random_tokens(rng: random.Random, least: int, most: int) -> list[int]:
    return [rng.randrange(5, 150) for _ in range(rng.randint(least, most))]


def random_pair(rng: random.Random, source: int, number: int, label: float = 1.0) -> TrainingPair:
    """A pair of random tokens, alone with its prompt."""
    prompt, chosen, rejected = random_tokens(rng, 2, 9), random_tokens(rng, 1, 12), random_tokens(rng, 1, 12)
    return TrainingPair(prompt, chosen, rejected, label, source, number, number)


def training_arguments(folder: Path, **changes: Any) -> DPOConfig:
    """Quiet arguments: float32, nothing saved, nothing truncated."""
    fixed: dict[str, Any] = {
        "output_dir": str(folder),
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }
    return DPOConfig(**fixed | changes)


DESCENT = {"optim": "sgd", "learning_rate": 0.01, "max_grad_norm": 1e9}
"""Plain and unclipped: Adam divides by the gradient's size, which blows rounding up where it is near zero."""


def make_trainer(
    models: Models,
    objective: Objective | None,
    folder: Path,
    *,
    batch: int = 8,
    micro: int | None = None,
    arguments: dict[str, Any] | None = None,
    **settings: Any,
) -> PreferenceTrainer:
    """The trainer, with batches of `batch` pairs in micro-batches of `micro`; `settings` are its own."""
    args = training_arguments(folder, **{"max_steps": 1, "per_device_train_batch_size": batch, **(arguments or {})})
    return PreferenceTrainer(models.policy, models.reference.model, objective, args, pairs_per_pass=micro, **settings)


def collated(models: Models, pairs: Sequence[TrainingPair]) -> dict[str, torch.Tensor]:
    return PairCollator(models.policy.tokenizer.pad_token_id)(pairs)


def weights(policy: Policy) -> torch.Tensor:
    """All weights, flat."""
    return torch.cat([tensor.flatten() for tensor in policy.model.state_dict().values()]).clone()


def whole_step(trainer: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch as a step that has no other; nothing is measured on the way."""
    trainer.source_grad_norms = "never"
    (inputs,), _ = trainer.get_batch_samples(iter([inputs]), 1, inputs["input_ids"].device)
    return inputs


def loss_and_gradients(trainer: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Gradients]:
    """What a trainer makes of a step's only batch, or of a part of it that is selected."""
    if "global_pairs_per_kl" not in inputs:
        inputs = whole_step(trainer, inputs)
    trainer.model.train()
    trainer.model.zero_grad()
    with trainer._as_trained() if isinstance(trainer, PreferenceTrainer) else nullcontext():
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: Gradients, expected: Gradients, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Up to rounding, which is that of the largest numbers that were added: those of IPO are above 1."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        rounding = atol * max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(found[name], gradient, rtol=rtol, atol=rounding, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_records(found: Records, expected: Records) -> None:
    """The same figures at every step, up to rounding: norms of gradients that cancel are exact to 3e-5 in float32."""
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=3e-5, abs=2e-5)


def token_logps_alone(model: torch.nn.Module, prompt_ids: list[int], response_ids: list[int]) -> torch.Tensor:
    """(tokens,) log-probabilities of a response's tokens: one sequence, no padding, nothing of align's."""
    logits = model(input_ids=torch.tensor([prompt_ids + response_ids])).logits[0]
    positions = torch.arange(len(prompt_ids), len(prompt_ids) + len(response_ids))
    return logits.log_softmax(-1)[positions - 1, torch.tensor(response_ids)]


def logp_alone(model: torch.nn.Module, prompt_ids: list[int], response_ids: list[int]) -> torch.Tensor:
    """log π(y|x), with gradient where it is enabled."""
    return token_logps_alone(model, prompt_ids, response_ids).sum()


def policy_logp(models: Models, pair: TrainingPair) -> float:
    """Σ log πθ over those of a pair's responses that the policy sampled."""
    sides = [pair.chosen_ids] * pair.of_policy[0] + [pair.rejected_ids] * pair.of_policy[1]
    with torch.no_grad():
        logps = [logp_alone(models.policy.model, pair.prompt_ids, ids) for ids in (*sides, *pair.other_ids)]
    return float(sum(logps))


def sampled_nearby(models: Models, pairs: Sequence[TrainingPair], spread: float = 1.0) -> list[TrainingPair]:
    """The pairs as if another policy had sampled their responses: importance weights of e^±spread."""
    rng = random.Random(len(pairs))
    return [replace(pair, sampled_logp=policy_logp(models, pair) + rng.uniform(-spread, spread)) for pair in pairs]
