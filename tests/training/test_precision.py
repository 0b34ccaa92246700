"""Mixed precision is for training: before, between and after rounds the models run as they are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from small_training import DESCENT, START, Models, load_models, make_trainer, random_pair, save_models, weights

from align_cli.models.load import load_policy
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.training.batches import TrainingPair
from align_cli.training.objective import Objective, SourceTerms

OBJECTIVE = Objective((SourceTerms("offline"),))
BFLOAT16 = {"bf16": True, "use_cpu": True, **DESCENT, "max_steps": 4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return save_models(tmp_path_factory.mktemp("models"))


def some_batches() -> list[list[TrainingPair]]:
    rng = random.Random(3)
    return [[random_pair(rng, 0, 4 * step + number) for number in range(4)] for step in range(2)]


def logps(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return response_logps(model, pad_batch([[5, 6], [7]], [[8, 9, 10], [11, 12]], 0))


def assert_plain(models: Models, folders: Sequence[Path], scratch: Path) -> None:
    """Policy and reference give the numbers of models that no trainer has ever seen."""
    models.policy.model.save_pretrained(scratch)
    models.policy.tokenizer.save_pretrained(scratch)
    assert torch.equal(logps(models.policy.model), logps(load_policy(scratch).model))
    assert torch.equal(logps(models.reference.model), logps(load_policy(folders[1]).model))


def test_around_training_in_bfloat16_the_models_run_as_they_are(folders: list[Path], tmp_path: Path) -> None:
    models = load_models(folders)
    trainer = make_trainer(models, OBJECTIVE, tmp_path, batch=4, arguments=BFLOAT16)
    assert_plain(models, folders, tmp_path / "before")
    state = trainer.train_round(some_batches(), START)
    assert_plain(models, folders, tmp_path / "between")
    trainer.train_round(some_batches(), state)
    assert_plain(models, folders, tmp_path / "after")


@pytest.mark.parametrize("objective", [OBJECTIVE, None], ids=["align's loss", "TRL's loss"])
def test_both_rounds_are_trained_in_bfloat16(objective: Objective | None, folders: list[Path], tmp_path: Path) -> None:
    """A second round in float32 would go unnoticed but for its numbers: those of a fresh trainer begun there."""
    models = load_models(folders)
    trainer = make_trainer(models, objective, tmp_path, batch=4, arguments=BFLOAT16)
    state = trainer.train_round(some_batches(), START)
    models.policy.model.save_pretrained(tmp_path / "between")
    models.policy.tokenizer.save_pretrained(tmp_path / "between")
    trainer.train_round(some_batches(), state)
    found = {}
    for precision in (True, False):
        again = load_models([tmp_path / "between", folders[1]])
        arguments = {**BFLOAT16, "bf16": precision}
        make_trainer(again, objective, tmp_path, batch=4, arguments=arguments).train_round(some_batches(), state)
        found[precision] = weights(again.policy)
    assert torch.equal(found[True], weights(models.policy))
    assert not torch.equal(found[False], weights(models.policy))
