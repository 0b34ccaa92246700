"""Float32 masters of weights in half precision, so that an optimizer's small steps do not round away.

Micikevicius et al. 2018, arXiv:1710.03740, section 3.1: the optimizer works on a float32 copy of each such weight, and
the model's own weight is that copy, rounded, after every step. So the weights that are sampled, evaluated and saved are
those that gradients are taken of. The copies are part of the optimizer's state: a checkpoint has them beside the
moments, and training goes on with them.

A departure: gradients stay in the weights' type, where those of a step's forward passes add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

MASTER = "master"
"""The copy's name in the optimizer's state."""

HALF = (torch.bfloat16, torch.float16)

OF = "is_master_of"
"""The copy's attribute that holds the model's own weight."""


def keep_masters(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer that has made no step yet work on float32 copies of its weights of half precision.

    Args:
        optimizer: changed in place. Its state is as it was: `state_with_masters` has the copies, too.
    """
    for group in optimizer.param_groups:
        group["params"] = [_master(weight) if weight.dtype in HALF else weight for weight in group["params"]]

    def take_gradients(*_: Any) -> None:
        for _number, master, weight in _masters(optimizer):
            master.grad = None if weight.grad is None else weight.grad.float()

    @torch.no_grad()
    def round_off(*_: Any) -> None:
        for _number, master, weight in _masters(optimizer):
            master.grad = None
            weight.copy_(master)

    optimizer.register_step_pre_hook(take_gradients)
    optimizer.register_step_post_hook(round_off)


def state_with_masters(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` with the copies in it."""
    state = optimizer.state_dict()
    masters = {number: {MASTER: master.detach()} for number, master, _ in _masters(optimizer)}
    kept, numbers = state["state"], sorted({*state["state"], *masters})
    return {**state, "state": {number: {**kept.get(number, {}), **masters.get(number, {})} for number in numbers}}


@torch.no_grad()
def load_with_masters(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict` for what `state_with_masters` gave."""
    for number, master, _ in _masters(optimizer):
        if (kept := state["state"].get(number, {}).get(MASTER)) is not None:
            master.copy_(kept)
    others = {
        number: {name: value for name, value in values.items() if name != MASTER}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": {number: values for number, values in others.items() if values}})


def _master(weight: torch.Tensor) -> torch.nn.Parameter:
    master = torch.nn.Parameter(weight.detach().float())
    setattr(master, OF, weight)
    return master


def _masters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Each copy, with its number in the optimizer's state and the model's own weight."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    for number, parameter in enumerate(parameters):
        weight = getattr(parameter, OF, None)
        if weight is not None:
            yield number, parameter, weight
