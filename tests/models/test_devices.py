"""Which device models are on: what torch finds, and what is said of what it does not find.

The tests see no accelerator, whatever the machine has; on one, `benchmarks/gpu.py` runs.
"""

from __future__ import annotations

import pytest
import torch

from align_cli.errors import AlignError
from align_cli.models.devices import find_device, has_float64, in_float64


def test_without_an_accelerator_auto_is_the_cpu() -> None:
    assert torch.accelerator.current_accelerator(check_available=True) is None
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "xpu"])
def test_a_device_that_is_not_there_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(AlignError, match=f"policy.device is {name}, and torch finds no such device here") as refused:
        find_device(name)
    (fault,) = refused.value.faults
    assert fault.hint.startswith("set it to cpu, or leave it out")
    assert fault.where == "policy.device"


def test_double_precision_is_had_on_the_device_or_on_the_cpu() -> None:
    assert has_float64(torch.device("cpu"))
    assert not has_float64(torch.device("mps"))
    found = in_float64(torch.tensor([0.1]))
    assert found.dtype == torch.float64
    assert found.item() == torch.tensor(0.1).item()
