"""Checkpoints from within a round in parts: each process writes what it holds, and reads what it is to hold.

No process gathers anything: of a split model each has a file with its parts of the weights, of the optimizer's moments
and of float32 masters. They are read by as many processes as there are then, one included. The files are torch's
distributed checkpoints in the form of safetensors, so that nothing is pickled: a part stands there with its place in
the whole. Only work in progress is kept so; what a round ends with is an ordinary checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from align_cli.artifacts.checksums import checksum
from align_cli.artifacts.disk import writing
from align_cli.errors import RunError
from align_cli.training.checkpoints import join_optimizer_state, parts_in
from align_cli.training.ranks import Ranks

WEIGHT, MOMENT = "weight.", "optimizer."
"""How names of tensors begin."""


@dataclass(frozen=True)
class MomentsInParts:
    """An optimizer's state that lies in parts, and is read by each process that goes on with it.

    Args:
        folder: the checkpoint.
        rest: what is not a tensor in it.
    """

    folder: Path
    rest: dict[str, Any]

    def of(self, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
        """By parameters, what this process goes on with: its parts where they are split, else all of it."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        reader = HuggingFaceStorageReader(str(self.folder))
        moments = {
            name: _room(described, weights[int(name.removeprefix(MOMENT).split(".")[0])])
            for name, described in reader.read_metadata().state_dict_metadata.items()
            if name.startswith(MOMENT)
        }
        _read(self.folder, moments)
        tensors = {name.removeprefix(MOMENT): tensor for name, tensor in moments.items()}
        state: dict[int, dict[str, Any]] = join_optimizer_state(tensors, self.rest)["state"]
        return state


@torch.no_grad()
def read_weights(folder: Path, model: torch.nn.Module) -> None:
    """Let a whole model have the weights that lie in parts."""
    _read(folder, {WEIGHT + name: weight.detach() for name, weight in model.named_parameters()})


def write_parts(
    folder: Path, ranks: Ranks, model: torch.nn.Module, moments: Mapping[str, torch.Tensor]
) -> dict[str, str]:
    """Write what each process holds; every process has to ask.

    Args:
        folder: one that all see.
        ranks: the processes.
        model: whose weights are split over them.
        moments: the optimizer's tensors, by parameter and name.

    Returns:
        The checksums of all files that were written, by name: each process has read its own.

    Raises:
        WriteError: if the disk does not take them.
        RunError: if the folder is another one where other processes are.
    """
    tensors = {WEIGHT + name: weight.detach() for name, weight in model.named_parameters()}
    tensors |= {MOMENT + name: tensor for name, tensor in moments.items()}
    with writing(folder):
        try:
            dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
        except CheckpointException as error:  # of no kind that anybody else would take for an error
            first, _ = next(iter(error.failures.values()))
            raise first from None
    own = [path for path in parts_in(folder) if path.name.startswith(f"shard-{ranks.rank + 1:05d}-")]
    everyone = ranks.heard({path.name: checksum(path) for path in own})
    found = {name: digest for each in everyone for name, digest in each.items()}
    there = {path.name for path in parts_in(folder)}
    if ranks.rank == 0 and (
        lost := [rank for rank, each in enumerate(everyone) if not each or not each.keys() <= there]
    ):
        raise RunError(
            f"what rank {lost[0]} has written is not there for rank 0",
            where=str(folder),
            hint="the run's folder has to lie on a file system that all machines see; or set checkpoints.sharded to "
            "false, with which rank 0 writes all",
        )
    return found


def _read(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fill tensors: of one that is split, this process' part."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # each reads by itself
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def _room(described: Any, weight: Any) -> torch.Tensor:
    """For a tensor that lies in parts: split as the weight is that it belongs to, where it has its shape."""
    dtype = described.properties.dtype
    if not isinstance(weight, DTensor) or described.size != weight.shape:
        return torch.empty(described.size, dtype=dtype)
    own = torch.empty_like(weight.to_local(), dtype=dtype)
    return DTensor.from_local(
        own, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
    )
