"""A model whose weights, gradients and moments are split over the processes while it is trained: torch's FSDP2.

What is trained is a twin of the policy's model that holds a part of every tensor (ZeRO's stage 3; stage 2 where layers
stay whole between forward and backward pass). While it trains, the policy's own model has no weights; when a round is
over each process has all of them again, since sampling and scoring are not in step with the other processes. So what is
sampled, measured and saved is an ordinary model, and a checkpoint is the one that a single process writes.

Each layer of the model is a unit, and what is in none of them one more. arXiv:2304.11277; arXiv:1910.02054.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from align_cli.models.head import head_of
from align_cli.models.layout import shares_prompts


@dataclass(frozen=True)
class Sharding:
    """How a model is split.

    Args:
        reshards: whether a layer's weights are let go between its forward and its backward pass (ZeRO-3, not ZeRO-2).
        layers: class names of the layers that are units; none for those that transformers names for the model.
    """

    reshards: bool = True
    layers: tuple[str, ...] = ()


class ShardedModel:
    """A policy's model, and the twin that is trained in its place.

    Args:
        model: on its device; every process has the same.
        sharding: how it is split.
        number: of processes.
    """

    def __init__(self, model: Any, sharding: Sharding, number: int) -> None:
        self.whole = model
        self.twin = copy.deepcopy(model)
        head_of(self.twin), shares_prompts(self.twin)  # tried while nobody has to take part in it
        mesh = init_device_mesh(model.device.type, (number,))
        for layer in _layers(self.twin, sharding):
            fully_shard(layer, mesh=mesh, reshard_after_forward=sharding.reshards)
        fully_shard(self.twin, mesh=mesh, reshard_after_forward=False)

    @torch.no_grad()
    def take_in(self) -> None:
        """The twin has the model's weights; the model has none until it gets them back."""
        for own, weight in self._weights():
            if weight.numel():
                own.to_local().copy_(_part_of(weight, own))
            weight.data = weight.data.new_empty(0)

    @torch.no_grad()
    def give_back(self) -> None:
        """The model has the twin's weights; every process has to ask."""
        for own, weight in self._weights():
            weight.data = own.full_tensor()

    @torch.no_grad()
    def whole_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """An optimizer's state with whole tensors, on the CPU; every process has to ask."""
        whole = {
            number: {name: _whole(value) for name, value in values.items()} for number, values in state["state"].items()
        }
        return {**state, "state": whole}

    @torch.no_grad()
    def own_state(self, state: Mapping[int, Mapping[str, Any]], optimizer: Any) -> dict[int, dict[str, Any]]:
        """Of the state of an optimizer of whole weights, what this process' parts of them go on with."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        return {
            number: {name: _split_like(value, weights[number]) for name, value in values.items()}
            for number, values in state.items()
        }

    def _weights(self) -> Iterator[tuple[Any, torch.nn.Parameter]]:
        return zip(self.twin.parameters(), self.whole.parameters(), strict=True)


def _layers(model: Any, sharding: Sharding) -> list[torch.nn.Module]:
    """The modules that are units of their own; none within another."""
    names = set(sharding.layers or getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def _part_of(whole: torch.Tensor, own: DTensor) -> torch.Tensor:
    """The part of a whole tensor that this process holds in another of its shape."""
    (placement,), mesh = own.placements, own.device_mesh
    assert isinstance(placement, Shard)
    parts = whole.chunk(mesh.size(), placement.dim)
    rank = mesh.get_local_rank()
    return parts[rank] if rank < len(parts) else whole.narrow(placement.dim, 0, 0)


def _split_like(value: Any, weight: Any) -> Any:
    if not isinstance(weight, DTensor) or not isinstance(value, torch.Tensor) or value.shape != weight.shape:
        return value
    part = _part_of(value, weight).to(weight.device)
    mesh: DeviceMesh = weight.device_mesh
    return DTensor.from_local(part, mesh, weight.placements, run_check=False, shape=value.shape, stride=value.stride())


def _whole(value: Any) -> Any:
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value
