"""Adapters on a base that is split over two processes become what one makes of them, and so does what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from several import in_processes
from small_training import START, Models, assert_same_records
from sweeps import swept
from test_all_terms import OBJECTIVE
from test_several_processes import offline_steps, one_of_several, ten_steps

from align_cli.models.adapters import AdaptedModel
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.policy import PolicySection
from align_cli.training.checkpoints import (
    OPTIMIZER_NAME,
    TrainingState,
    read_optimizer_state,
    read_training_state,
    save_checkpoint,
)
from align_cli.training.objective import Objective
from align_cli.training.ranks import ALONE, Ranks
from align_cli.training.sharded import Sharding

pytestmark = pytest.mark.long
CASES: dict[str, tuple[Sharding, dict[str, Any]]] = {
    "fsdp2": (Sharding(), {}),
    "zero2, merged": (Sharding(reshards=False), {"between_rounds": "merge"}),
    "dora, embeddings": (Sharding(), {"use_dora": True, "modules_to_save": ["embed_tokens"]}),
    "head, checkpointing": (
        Sharding(),
        {"target_modules": ["q_proj", "lm_head"], "arguments": {"gradient_checkpointing": True}},
    ),
}

NUM_STEPS = 6
KEEP_AT = 3
CLOSE = 1e-6


class Trained(NamedTuple):
    """What six steps left."""

    adapter: dict[str, torch.Tensor]
    base: dict[str, torch.Tensor]
    records: list[dict[str, float]]


def load_adapted(folders: list[Path], checkpoint: Path | None = None, **lora: Any) -> Models:
    """A policy whose adapter has been trained, and the base as its reference; of two updates, where rounds merge."""
    section = LoraSection(**{"rank": 2, "alpha": 4, **lora})
    adapted = AdaptedModel(PolicySection(model_name_or_path=str(folders[0]), lora=section), 0)
    policy, reference = adapted.policy(checkpoint), adapted.frozen(None)
    if checkpoint is None:
        tensors = {name: tensor + 0.02 * torch.ones_like(tensor) for name, tensor in policy.tensors().items()}
        policy.put(tensors, "trained")
        policy.begin_round(2)
    return Models(policy, reference)


def trained(
    folders: list[Path],
    scratch: Path,
    ranks: Ranks = ALONE,
    sharding: Sharding | None = None,
    objective: Objective | None = OBJECTIVE,
    checkpoint: Path | None = None,
    arguments: dict[str, Any] | None = None,
    **lora: Any,
) -> Trained:
    models = load_adapted(folders, checkpoint, **lora)
    arguments = {"max_steps": NUM_STEPS, **(arguments or {})}
    trainer = one_of_several(models, objective, scratch / f"trainer-{ranks.rank}", ranks, sharding, arguments)
    batches = (ten_steps(load_adapted(folders, **lora)) if objective else offline_steps())[:NUM_STEPS]
    start, moments = START, None
    if checkpoint is not None:
        start = read_training_state(checkpoint) or START
        moments = read_optimizer_state(checkpoint, start)
        assert moments is not None

    def keep(state: TrainingState) -> None:
        if ranks.rank == 0:
            save_checkpoint(scratch / "kept", models.policy, state, trainer.optimizer_state())

    trainer.train_round(batches, start, moments, keep, KEEP_AT)
    frozen = {
        name: tensor
        for name, tensor in models.policy.model.named_parameters()
        if "lora_" not in name and not tensor.requires_grad
    }
    return Trained(models.policy.tensors(), frozen, trainer.step_records)


def assert_same(found: Trained, expected: Trained) -> None:
    assert found.adapter.keys() == expected.adapter.keys()
    for name, tensor in expected.adapter.items():
        torch.testing.assert_close(found.adapter[name], tensor, rtol=0, atol=CLOSE, msg=lambda m, n=name: f"{n}: {m}")
    assert found.base.keys() == expected.base.keys()
    assert all(torch.equal(found.base[name], tensor) for name, tensor in expected.base.items())


@pytest.mark.parametrize("name", swept(CASES, "zero2, merged", "dora, embeddings"))
def test_two_processes_end_in_the_adapter_of_one(model_folders: list[Path], tmp_path: Path, name: str) -> None:
    sharding, settings = CASES[name]
    alone = trained(model_folders, tmp_path, **settings)
    both = in_processes(
        2, lambda ranks: trained(model_folders, tmp_path, ranks, sharding, **settings), tmp_path / "meet"
    )
    lora = {name: value for name, value in settings.items() if name != "arguments"}
    untrained = load_adapted(model_folders, **lora).policy.tensors()
    assert max((alone.adapter[name] - tensor).abs().max() for name, tensor in untrained.items()) > 3e-4
    for one in both:
        assert_same(one, alone)
        assert_same_records(one.records, alone.records)


def test_trls_own_loss_asks_the_split_reference_too(model_folders: list[Path], tmp_path: Path) -> None:
    alone = trained(model_folders, tmp_path, objective=None)
    both = in_processes(
        2, lambda ranks: trained(model_folders, tmp_path, ranks, Sharding(), objective=None), tmp_path / "meet"
    )
    for one in both:
        assert_same(one, alone)


def test_what_two_kept_is_the_adapter_alone_and_one_goes_on_with_it(model_folders: list[Path], tmp_path: Path) -> None:
    alone = trained(model_folders, tmp_path / "alone", between_rounds="merge")
    in_processes(
        2,
        lambda ranks: trained(model_folders, tmp_path / "two", ranks, Sharding(), between_rounds="merge"),
        tmp_path / "meet",
    )
    kept, wanted = (folder / "kept" for folder in (tmp_path / "two", tmp_path / "alone"))
    assert sorted(path.name for path in kept.iterdir()) == sorted(path.name for path in wanted.iterdir())
    assert (kept / OPTIMIZER_NAME).stat().st_size == (wanted / OPTIMIZER_NAME).stat().st_size
    again = trained(model_folders, tmp_path / "again", checkpoint=kept, between_rounds="merge")
    assert_same(again, alone)
    both = in_processes(
        2,
        lambda ranks: trained(
            model_folders, tmp_path / "both", ranks, Sharding(), checkpoint=wanted, between_rounds="merge"
        ),
        tmp_path / "meet",
    )
    assert_same(both[0], alone)
