"""LoRA updates of one base, and what they add up to: one update, whose rank is the sum of theirs.

B₁A₁ + B₂A₂ = [B₁ B₂][A₁; A₂], where both are scaled alike. So a policy that was trained in several updates is an
adapter as any other: exact, small, and on any base, also one in half precision or a few bits, whose weights nothing is
rounded into.

A departure from peft's `add_weighted_adapter(combination_type="cat")`: that multiplies the scale into the factors,
which rounds them, and knows neither layers with ranks of their own nor mixtures whose experts are one tensor a layer.

Tensors have the names that stand in an adapter's file. `num_experts` is, by layer, how many experts share its factors.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from align_cli.errors import AlignError

if TYPE_CHECKING:
    from peft import LoraConfig

Tensors = Mapping[str, torch.Tensor]

FACTOR = re.compile(r"\.lora_(?:embedding_)?([AB])(?:\.weight)?$")
"""How the name of a factor ends. A has the rank first, B second."""
OF_LORA = ".lora_"
SIZES = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
"""What of a config decides how an update is shaped and scaled."""
PLAIN_INITS = (True, False, "gaussian", "eva")
"""The ways to begin an adapter that leave the base's weights as they are."""


def config_of_sum(config: LoraConfig, num_updates: int) -> LoraConfig:
    """The config of so many updates in one, each of them with this config; scaled as each of them."""
    whole = copy.copy(config)
    if num_updates > 1:
        factor = math.sqrt(num_updates) if config.use_rslora else num_updates
        whole.r, whole.lora_alpha = config.r * num_updates, config.lora_alpha * factor
        whole.rank_pattern = {name: rank * num_updates for name, rank in config.rank_pattern.items()}
        whole.alpha_pattern = {name: alpha * factor for name, alpha in config.alpha_pattern.items()}
    return whole


def num_updates_in(found: LoraConfig, config: LoraConfig, place: str) -> int:
    """How many updates with a config an adapter is the sum of.

    Args:
        found: the adapter's config.
        config: that of one update.
        place: where the adapter lies.

    Raises:
        AlignError: if it is not such a sum, as where its updates are scaled otherwise.
    """
    number = max(1, found.r // config.r)
    if _differing(found, config_of_sum(config, number)):
        words = [f"{name} {theirs} where {ours} is asked for" for name, theirs, ours in _differing(found, config)]
        raise AlignError(
            f"the adapter is made otherwise than this recipe's: {', '.join(words)}",
            where=place,
            hint="set policy.lora as it was when the adapter was trained, or take a checkpoint of this recipe's",
        )
    return number


def joined(first: Tensors, second: Tensors, num_experts: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Two updates in one. What is no factor, as a module that is trained whole, is the second's."""
    return {
        name: _cat(first[name], tensor, *place) if (place := _rank_at(name, num_experts)) else tensor
        for name, tensor in second.items()
    }


def parted(
    tensors: Tensors, shapes: Tensors, num_experts: Mapping[str, int]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The updates before the latest, in one and factors alone, and the latest, with all that is no factor.

    Args:
        tensors: of a sum of updates.
        shapes: tensors of the shapes of one update.
        num_experts: by layer.
    """
    earlier, latest = {}, dict(tensors)
    for name, tensor in tensors.items():
        if place := _rank_at(name, num_experts):
            rank = shapes[name].shape[place[0]] // place[1]
            earlier[name], latest[name] = _split(tensor, rank, *place)
    return earlier, latest


def num_joined(tensors: Tensors, shapes: Tensors) -> int:
    """How many updates of these shapes are joined in an adapter's tensors."""
    name = next(name for name in shapes if FACTOR.search(name))
    return tensors[name].numel() // shapes[name].numel()


def changes_nothing(tensors: Tensors) -> bool:
    """Whether an adapter is as new: in every layer one of its factors is 0."""
    return not any(
        tensor.any() and tensors[_other_factor(name)].any()
        for name, tensor in tensors.items()
        if (factor := FACTOR.search(name)) and factor[1] == "A"
    )


def check_can_be_added(config: LoraConfig, names: Iterable[str], place: str) -> None:
    """Refuse an adapter whose updates do not add up to one.

    Args:
        config: the adapter's.
        names: of its tensors.
        place: where it lies, or the key that asks for it.

    Raises:
        AlignError: if they do not.
    """
    others = sorted(name for name in names if OF_LORA in name and not FACTOR.search(name))
    if others or config.init_lora_weights not in PLAIN_INITS:
        why = f"it has {others[0]}" if others else f"it began as {config.init_lora_weights}, which changes the base"
        raise AlignError(
            f"policy.lora.between_rounds is merge, and this adapter is more than factors that add up: {why}",
            where=place,
            hint="leave policy.lora.between_rounds out, which goes on with the adapter that there is",
        )


def _differing(found: LoraConfig, wanted: LoraConfig) -> list[tuple[str, object, object]]:
    both = ((name, getattr(found, name), getattr(wanted, name)) for name in SIZES)
    return [(name, theirs, ours) for name, theirs, ours in both if theirs != ours]


def _rank_at(name: str, num_experts: Mapping[str, int]) -> tuple[int, int] | None:
    """Which dimension of a factor holds its ranks, and how many experts share it; None for what is no factor."""
    factor = FACTOR.search(name)
    return factor and ("AB".index(factor[1]), num_experts.get(name[: factor.start()], 1))


def _other_factor(name: str) -> str:
    return re.sub(r"A(\.weight)?$", r"B\1", name)


def _cat(first: torch.Tensor, second: torch.Tensor, dim: int, num_experts: int) -> torch.Tensor:
    parts = [_with_rank_apart(tensor, dim, num_experts) for tensor in (first, second)]
    return torch.cat(parts, 1).flatten(dim, dim + 1)


def _split(tensor: torch.Tensor, rank: int, dim: int, num_experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    apart = _with_rank_apart(tensor, dim, num_experts)
    earlier, latest = apart.split([apart.shape[1] - rank, rank], 1)
    return earlier.flatten(dim, dim + 1), latest.flatten(dim, dim + 1)


def _with_rank_apart(tensor: torch.Tensor, dim: int, num_experts: int) -> torch.Tensor:
    """A factor with its rank as second dimension: peft has A as (experts · rank, in), B as (out, rank · experts)."""
    return tensor.unflatten(dim, (num_experts, -1) if dim == 0 else (-1, num_experts))
