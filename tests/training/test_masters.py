"""Weights in half precision: steps too small for them are not lost, and what is sampled is what is trained."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from small_training import START, Models, make_trainer, random_pair, weights

from align_cli.models.load import load_policy
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import read_optimizer_state, read_training_state, save_checkpoint
from align_cli.training.masters import MASTER, keep_masters, load_with_masters, state_with_masters
from align_cli.training.objective import Objective, SourceTerms

OBJECTIVE = Objective((SourceTerms("offline"),))
RATE = 1e-3
STEPS = 40


def weight_at_one() -> torch.nn.Parameter:
    """The next smaller number of bfloat16 is 0.996: a step of 0.001 rounds to nothing."""
    return torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))


def descend(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_too_small_for_bfloat16_add_up(kind: type[torch.optim.Optimizer]) -> None:
    plain, kept = weight_at_one(), weight_at_one()
    descend(plain, kind([plain], lr=RATE, weight_decay=0.0), STEPS)
    assert torch.equal(plain, torch.ones_like(plain)), "without masters nothing moves"
    optimizer = kind([kept], lr=RATE, weight_decay=0.0)
    keep_masters(optimizer)
    descend(kept, optimizer, STEPS)
    assert kept.dtype == torch.bfloat16
    torch.testing.assert_close(kept.float(), torch.full((3,), 1 - STEPS * RATE), atol=2e-3, rtol=0)


def test_weights_in_float32_are_left_as_they_are() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=RATE)
    keep_masters(optimizer)
    assert optimizer.param_groups[0]["params"][0] is weight
    assert state_with_masters(optimizer)["state"] == {}


def test_a_state_brings_masters_and_moments_to_another_optimizer() -> None:
    def made() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = weight_at_one()
        optimizer = torch.optim.AdamW([weight], lr=RATE)
        keep_masters(optimizer)
        return weight, optimizer

    weight, optimizer = made()
    descend(weight, optimizer, 3)
    state = state_with_masters(optimizer)
    assert state["state"][0][MASTER].dtype == torch.float32
    other_weight, other = made()
    load_with_masters(other, state)
    descend(weight, optimizer, 1)
    descend(other_weight, other, 1)
    found, expected = (state_with_masters(one)["state"][0] for one in (other, optimizer))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def batches() -> list[list[TrainingPair]]:
    rng = random.Random(3)
    return [[random_pair(rng, 0, 4 * step + number) for number in range(4)] for step in range(4)]


def half(folders: list[Path]) -> Models:
    return Models(*(load_policy(folder, dtype="bfloat16") for folder in folders))


def test_training_in_bfloat16_goes_where_training_in_float32_goes(model_folders: list[Path], tmp_path: Path) -> None:
    moved = []
    for dtype in ("float32", "bfloat16"):
        models = Models(*(load_policy(folder, dtype=dtype) for folder in model_folders))
        arguments = {"learning_rate": 1e-4, "max_steps": 4}
        trainer = make_trainer(models, OBJECTIVE, tmp_path / dtype, batch=4, arguments=arguments)
        trainer.create_optimizer()
        before = optimized(trainer.optimizer)
        trainer.train_round(batches(), START)
        moved.append(optimized(trainer.optimizer) - before)
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.95


def optimized(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """All that an optimizer works on, flat."""
    return torch.cat([one.detach().flatten() for group in optimizer.param_groups for one in group["params"]]).clone()


def test_a_checkpoint_holds_the_weights_in_their_type_and_the_masters_beside_the_moments(
    model_folders: list[Path], tmp_path: Path
) -> None:
    models = half(model_folders)
    trainer = make_trainer(models, OBJECTIVE, tmp_path, batch=4, arguments={"max_steps": 4})
    state = trainer.train_round(batches(), START)
    save_checkpoint(tmp_path / "checkpoint", models.policy, state, trainer.optimizer)
    read = load_policy(tmp_path / "checkpoint", dtype="bfloat16")
    assert torch.equal(weights(read), weights(models.policy))
    known = read_training_state(tmp_path / "checkpoint")
    assert known is not None
    optimizer_state = read_optimizer_state(tmp_path / "checkpoint", known)
    assert optimizer_state is not None
    masters = torch.cat([values[MASTER].flatten() for values in optimizer_state["state"].values()])
    assert masters.dtype == torch.float32
    assert not torch.equal(masters, masters.bfloat16().float())
    own = {tensor.data_ptr(): tensor for tensor in models.policy.model.parameters()}
    assert masters.numel() == sum(tensor.numel() for tensor in own.values())
