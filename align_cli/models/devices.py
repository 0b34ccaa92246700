"""Devices, by torch's accelerator interface: which one models are on, what it lacks, which the CPU does for it, and how
far apart what is computed in another order may lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from align_cli.errors import AlignError

if TYPE_CHECKING:
    import torch

KEY = "policy.device"
ROUNDING, ROUNDING_IN_HALF = 1e-2, 0.3
"""The most that may be put down to rounding, as a part of a difference that means something, by a model's precision."""


def find_device(name: str, key: str = KEY) -> torch.device:
    """The device of this name; `auto` is the accelerator that there is, else the CPU.

    Args:
        name: as a recipe has it.
        key: the recipe's key that names it.

    Raises:
        AlignError: if there is no such device here.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "cpu" or (name == "auto" and accelerator is None):
        return torch.device("cpu")
    wanted = torch.device(accelerator if name == "auto" and accelerator else name)
    number, num_there = wanted.index or 0, torch.accelerator.device_count() if accelerator else 0
    if accelerator and wanted.type == accelerator.type and number < num_there:
        return torch.device(wanted.type, number)
    there = ["cpu", *(f"{accelerator}:{each}" for each in range(num_there))]
    hint = f"set it to {' or '.join(there)}, or leave it out"
    if wanted.type == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        hint += "; this torch was built without CUDA, and pytorch.org has one that was"
    raise AlignError(f"{key} is {name}, and torch finds no such device here", where=key, hint=hint)


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in double precision: on their device, or on the CPU where the device has none, as mps."""
    return (tensor if has_float64(tensor.device) else tensor.cpu()).double()


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in double precision."""
    import torch

    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def is_rounding(error: torch.Tensor, meant: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether the largest of differences is rounding's, beside one that a mistake would make.

    Args:
        error: the differences found, of any shape.
        meant: what they would be at least, were something wrong: a scalar.
        dtype: of the model that computed them.
    """
    import torch

    most = ROUNDING if dtype in (torch.float32, torch.float64) else ROUNDING_IN_HALF
    return bool(error.abs().max() <= most * meant)
