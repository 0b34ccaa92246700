"""A model whose weights, gradients and moments are split over the processes while it is trained: torch's FSDP2.

What is trained is a twin of the policy's model that holds a part of every tensor (ZeRO's stage 3; stage 2 where layers
stay whole between forward and backward pass). While it trains, the policy's own model has no weights; when a round is
over each process has all of them again, since sampling and scoring are not in step with the other processes. So what is
sampled, measured and saved is an ordinary model, and a checkpoint is the one that a single process writes.

Of a base with adapters the base is split too, and stays as it is; the trained adapter is split with its gradients and
moments, frozen ones are whole in every process. References are adapters on the same base: while the twin is trained,
they are asked there, by all processes at once.

Each layer of the model is a unit, and what is in none of them one more. arXiv:2304.11277; arXiv:1910.02054.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from align_cli.errors import RunError
from align_cli.models.adapters import AdapterPolicy, AdapterView
from align_cli.models.head import head_of
from align_cli.models.layout import shares_prompts
from align_cli.models.load import Policy
from align_cli.models.twins import AdaptedTwin, twin_of


@dataclass(frozen=True)
class Sharding:
    """How a model is split.

    Args:
        reshards: whether a layer's weights are let go between its forward and its backward pass (ZeRO-3, not ZeRO-2).
        layers: class names of the layers that are units; none for those that transformers names for the model.
        writes_parts: whether each process writes its part of what is kept within a round. Adapters are small, and
            gathered all the same.
    """

    reshards: bool = True
    layers: tuple[str, ...] = ()
    writes_parts: bool = False


class ShardedModel:
    """A policy's model, and the twin that is trained in its place.

    Args:
        policy: whose model is on its device; every process has the same.
        reference: what margins are taken against.
        sharding: how the model is split.
        number: of processes.

    Raises:
        RunError: if the model's weights are of a few bits.
    """

    def __init__(self, policy: Policy, reference: torch.nn.Module, sharding: Sharding, number: int) -> None:
        self.whole = policy.model
        _check_can_be_split(self.whole)
        self._writes_parts = sharding.writes_parts
        self._adapted = AdaptedTwin(policy.adapted) if isinstance(policy, AdapterPolicy) else None
        self.twin = self._adapted.base.model if self._adapted else twin_of(self.whole)
        self.reference = reference
        if self._adapted is not None:
            assert isinstance(reference, AdapterView)
            self.reference = self._adapted.view(reference)
        for model in (self.twin, self.reference):
            head_of(model), shares_prompts(model)  # tried while nobody has to take part in it
        if self._adapted is not None:
            self._adapted.part()
        mesh = init_device_mesh(self.whole.device.type, (number,))
        for layer in _layers(self.twin, sharding):
            fully_shard(layer, mesh=mesh, reshard_after_forward=sharding.reshards)
        fully_shard(self.twin, mesh=mesh, reshard_after_forward=False)

    @property
    def writes_parts(self) -> bool:
        """Whether each process writes its part of what is kept within a round."""
        return self._writes_parts and self._adapted is None

    @property
    def has_reference(self) -> bool:
        """Whether the reference is asked in the twin, and all processes take part in its passes."""
        return self._adapted is not None

    @torch.no_grad()
    def take_in(self) -> None:
        """The twin has the model's weights; the model has none until it gets them back, but frozen adapters."""
        if self._adapted is not None:
            self._adapted.share()
        for own, weight in self._weights():
            if weight.numel():
                own.to_local().copy_(_part_of(weight, own))
            weight.data = weight.data.new_empty(0)

    @torch.no_grad()
    def give_back(self, *, to_save: bool = False) -> None:
        """The model has the twin's weights; every process has to ask.

        Args:
            to_save: whether those are enough that a checkpoint holds: of a base with adapters, what is trained.
        """
        for own, weight in self._weights():
            if own.requires_grad or self._adapted is None or not to_save:
                weight.data = own.full_tensor()

    @torch.no_grad()
    def whole_state(self, state: Mapping[str, Any], *, is_kept: bool) -> dict[str, Any]:
        """An optimizer's state with whole tensors, on the CPU; every process has to ask.

        Args:
            state: with this process' parts.
            is_kept: whether this process is to have it; for others nothing is held together.
        """
        whole: dict[int, dict[str, Any]] = {}
        for number, values in state["state"].items():
            for name, value in values.items():
                found = _whole(value)
                if is_kept:
                    whole.setdefault(number, {})[name] = found
        return {**state, "state": whole}

    @torch.no_grad()
    def own_state(self, state: Mapping[int, Mapping[str, Any]], optimizer: Any) -> dict[int, dict[str, Any]]:
        """Of the state of an optimizer of whole weights, what this process' parts of them go on with."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        return {
            number: {name: _split_like(value, weights[number]) for name, value in values.items()}
            for number, values in state.items()
        }

    def _weights(self) -> Iterator[tuple[DTensor, torch.nn.Parameter]]:
        """What is split, and the model's own."""
        whole = dict(self.whole.named_parameters())
        for name, own in self.twin.named_parameters():
            if isinstance(own, DTensor):
                yield own, whole[name]


def _check_can_be_split(model: Any) -> None:
    if getattr(model, "is_quantized", False) or getattr(model, "quantization_method", None) is not None:
        raise RunError(
            "the model is quantised, and launch splits it over the processes",
            where="launch.strategy",
            hint="set launch.strategy to ddp; weights of a few bits are small enough for every process",
        )


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
