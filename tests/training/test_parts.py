"""Checkpoints in parts: what two processes keep of a split model, each its own, any number of them goes on with."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from several import in_processes
from small_training import START, Records, assert_same_records, load_models, weights
from test_all_terms import OBJECTIVE
from test_several_processes import KINDS, one_of_several, ten_steps
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from align_cli.artifacts.disk import WriteError
from align_cli.errors import RunError
from align_cli.training.checkpoints import (
    STATE_NAME,
    TrainingState,
    parts_in,
    read_moments,
    read_training_state,
    save_in_parts,
)
from align_cli.training.parts import read_weights, write_parts
from align_cli.training.ranks import ALONE, Ranks
from align_cli.training.sharded import Sharding

pytestmark = pytest.mark.long

NUM_STEPS, KEEP_AT = 6, 3


def trained(
    folders: list[Path],
    scratch: Path,
    ranks: Ranks = ALONE,
    sharding: Sharding | None = None,
    checkpoint: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, Records]:
    """Six steps, or those that are left of them behind a checkpoint."""
    models = load_models(folders)
    for policy in models:
        policy.model.to(dtype)
    start, moments = START, None
    if checkpoint is not None:
        start = read_training_state(checkpoint) or START
        read_weights(checkpoint, models.policy.model)
        moments = read_moments(checkpoint, start)
    arguments = {"max_steps": NUM_STEPS, "weight_decay": 0.01}
    trainer = one_of_several(models, OBJECTIVE, scratch / f"trainer-{ranks.rank}", ranks, sharding, arguments)

    def keep(state: TrainingState) -> None:
        if ranks.rank == 0:
            save_in_parts(scratch / "kept", state, trainer.write_parts)
        else:
            trainer.write_parts()

    keeping = (keep, KEEP_AT) if trainer.writes_parts else ()
    trainer.train_round(ten_steps(load_models(folders))[:NUM_STEPS], start, moments, *keeping)
    return weights(models.policy), trainer.step_records


def test_what_two_kept_in_parts_any_number_goes_on_with(model_folders: list[Path], tmp_path: Path) -> None:
    alone, records = trained(model_folders, tmp_path)
    kept = tmp_path / "two" / "kept"
    in_processes(
        2, lambda ranks: trained(model_folders, kept.parent, ranks, Sharding(writes_parts=True)), tmp_path / "meet"
    )
    names = [path.name for path in parts_in(kept)]
    assert len(names) == 2
    assert sorted(path.name for path in kept.iterdir()) == sorted([STATE_NAME, *names])
    sizes = [path.stat().st_size for path in parts_in(kept)]
    assert max(sizes) < 1.1 * min(sizes)

    found = [trained(model_folders, tmp_path / "one", checkpoint=kept)]
    for kind in ("ddp", "fsdp2"):
        found += in_processes(
            2,
            lambda ranks, kind=kind: trained(model_folders, tmp_path / kind, ranks, KINDS[kind], kept),
            tmp_path / "meet",
        )
    found += in_processes(
        4, lambda ranks: trained(model_folders, tmp_path / "four", ranks, Sharding(), kept), tmp_path / "meet"
    )
    for found_weights, found_records in found:
        torch.testing.assert_close(found_weights, alone, rtol=0, atol=1e-6)
        assert_same_records(found_records, records)


def test_as_many_go_on_to_the_same_bits_masters_of_half_precision_included(
    model_folders: list[Path], tmp_path: Path
) -> None:
    half = torch.bfloat16
    (through, records), _ = in_processes(
        2,
        lambda ranks: trained(model_folders, tmp_path, ranks, Sharding(writes_parts=True), dtype=half),
        tmp_path / "meet",
    )
    (again, found), _ = in_processes(
        2,
        lambda ranks: trained(model_folders, tmp_path / "again", ranks, Sharding(), tmp_path / "kept", half),
        tmp_path / "meet",
    )
    assert torch.equal(again, through)
    assert found == records


def written(folder: Path, ranks: Ranks) -> str:
    """What is said when two processes write a model of four numbers."""
    model = torch.nn.Linear(2, 2, bias=False)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    try:
        write_parts(folder, ranks, model, {})
    except (WriteError, RunError) as error:
        return f"{type(error).__name__}: {error}"
    return "written"


def test_a_disk_that_is_full_in_one_process_is_said_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(ranks: Ranks) -> str:
        if ranks.rank == 1:
            monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", no_room)
        return written(tmp_path, ranks)

    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for said in in_processes(2, full, tmp_path / "meet"):
        assert said.startswith("WriteError: [Errno 28] No space left on device")


def test_processes_that_do_not_see_one_folder_are_told_apart(tmp_path: Path) -> None:
    said, _ = in_processes(2, lambda ranks: written(tmp_path / f"{ranks.rank}", ranks), tmp_path / "meet")
    assert "what rank 1 has written is not there for rank 0" in said
