"""Two processes make of a model what one makes of it, with all five sources and every term, whole or split."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from several import in_processes
from small_training import (
    START,
    Models,
    assert_same_records,
    load_models,
    make_trainer,
    random_pair,
    sampled_nearby,
    weights,
)
from sweeps import swept
from test_all_terms import OBJECTIVE, one_step

from align_cli.training.batches import TrainingPair
from align_cli.training.objective import Objective
from align_cli.training.ranks import ALONE, Ranks
from align_cli.training.sharded import Sharding
from align_cli.training.trainer import PreferenceTrainer

BATCH, NUM_STEPS = 16, 10
KINDS: dict[str, Sharding | None] = {"ddp": None, "fsdp2": Sharding(), "zero2": Sharding(reshards=False)}
SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "tokens per pass": {"tokens_per_pass": 90},
    "without KL": {"objective": replace(OBJECTIVE, kl_coefficient=0.0)},
}


class Trained(NamedTuple):
    """What ten steps left."""

    weights: torch.Tensor
    records: list[dict[str, float]]
    moments: dict[str, Any]


def ten_steps(models: Models) -> list[list[TrainingPair]]:
    rng = random.Random(1)
    pairs = [pair for _ in range(NUM_STEPS) for pair in one_step(rng)]
    sampled = [
        weighed if OBJECTIVE.sources[pair.source].policy_responses else pair
        for pair, weighed in zip(pairs, sampled_nearby(models, pairs), strict=True)
    ]
    return [sampled[start : start + BATCH] for start in range(0, len(sampled), BATCH)]


def offline_steps() -> list[list[TrainingPair]]:
    """What TRL's own losses are for."""
    rng = random.Random(2)
    return [[random_pair(rng, 0, BATCH * step + number) for number in range(BATCH)] for step in range(NUM_STEPS)]


def one_of_several(
    models: Models,
    objective: Objective | None,
    scratch: Path,
    ranks: Ranks,
    sharding: Sharding | None,
    arguments: dict[str, Any],
    **settings: Any,
) -> PreferenceTrainer:
    """What each process trains with: its part of every batch, in forward passes of four pairs."""
    chosen: dict[str, Any] = {"micro": 4, "source_grad_norms": "round", **settings}
    return make_trainer(
        models,
        objective,
        scratch,
        batch=BATCH // ranks.number,
        # Adam divides by the size of a gradient, which blows up the rounding of one near zero: epsilon bounds that.
        arguments={"learning_rate": 1e-4, "adam_epsilon": 1e-6, **arguments},
        ranks=ranks,
        sharding=sharding,
        **chosen,
    )


def trained(
    folders: list[Path],
    scratch: Path,
    ranks: Ranks = ALONE,
    sharding: Sharding | None = None,
    objective: Objective | None = OBJECTIVE,
    **settings: Any,
) -> Trained:
    models = load_models(folders)
    arguments = {"max_steps": NUM_STEPS, "weight_decay": 0.01}
    trainer = one_of_several(models, objective, scratch, ranks, sharding, arguments, **settings)
    trainer.train_round(ten_steps(load_models(folders)) if objective else offline_steps(), START)
    moments = trainer.optimizer_state()
    assert moments is not None
    return Trained(weights(models.policy), trainer.step_records, moments)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "name"),
    swept(product(KINDS, SETTINGS), ("ddp", "as it is"), ("fsdp2", "tokens per pass"), ("zero2", "without KL")),
)
def test_two_processes_end_in_the_weights_of_one(
    model_folders: list[Path], tmp_path: Path, kind: str, name: str
) -> None:
    settings = SETTINGS[name]
    alone = trained(model_folders, tmp_path, **settings)
    both = in_processes(
        2, lambda ranks: trained(model_folders, tmp_path, ranks, KINDS[kind], **settings), tmp_path / "meet"
    )
    untrained = weights(load_models(model_folders).policy)
    assert (alone.weights - untrained).abs().max() > 3e-4
    for one in both:
        torch.testing.assert_close(one.weights, alone.weights, rtol=0, atol=1e-6)
        assert_same_records(one.records, alone.records)
    assert torch.equal(both[0].weights, both[1].weights)
    for number, values in alone.moments["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(both[0].moments["state"][number][name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("kind", swept(KINDS, "fsdp2"))
def test_trls_own_loss_is_shared_likewise(model_folders: list[Path], tmp_path: Path, kind: str) -> None:
    alone = trained(model_folders, tmp_path, objective=None)
    both = in_processes(
        2, lambda ranks: trained(model_folders, tmp_path, ranks, KINDS[kind], objective=None), tmp_path / "meet"
    )
    for one in both:
        torch.testing.assert_close(one.weights, alone.weights, rtol=0, atol=1e-6)
        for ours, theirs in zip(one.records, alone.records, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def halved(folders: list[Path], scratch: Path, ranks: Ranks) -> tuple[list[str], Trained]:
    """Ten steps, where the second process has no memory for four pairs a pass."""
    models = load_models(folders)
    arguments = {"max_steps": NUM_STEPS, "learning_rate": 1e-4, "weight_decay": 0.01, "adam_epsilon": 1e-6}
    trainer = make_trainer(
        models, OBJECTIVE, scratch, batch=BATCH // ranks.number, micro=4, arguments=arguments, ranks=ranks
    )
    training_forward, said = trainer._training_forwards[0], []

    def bounded(*args: Any, **kwargs: Any) -> Any:
        if ranks.rank == 1 and torch.is_grad_enabled() and trainer.pairs_per_pass > 2:
            raise MemoryError("no room for so many")
        return training_forward(*args, **kwargs)

    trainer._training_forwards[0] = bounded
    while True:
        try:
            trainer.train_round(ten_steps(load_models(folders)), START)
            break
        except MemoryError as error:
            said.append(str(error))
            assert trainer.halve_passes()
    moments = trainer.optimizer_state()
    assert moments is not None
    return said, Trained(weights(models.policy), trainer.step_records, moments)


@pytest.mark.long
def test_memory_that_runs_out_in_one_process_halves_the_passes_of_all(
    model_folders: list[Path], tmp_path: Path
) -> None:
    alone = trained(model_folders, tmp_path, source_grad_norms="never")
    both = in_processes(2, lambda ranks: halved(model_folders, tmp_path, ranks), tmp_path / "meet")
    for said, one in both:
        assert said == ["no room for so many (rank 1)"]
        torch.testing.assert_close(one.weights, alone.weights, rtol=0, atol=1e-6)
