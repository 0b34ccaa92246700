"""Float32 masters of weights in half precision, so that an optimizer's small steps do not round away.

Micikevicius et al. 2018, arXiv:1710.03740, section 3.1: the optimizer works on a float32 copy of each such weight, and
the model's own weight is that copy, rounded, after every step. So the weights that are sampled, evaluated and saved are
those that gradients are taken of. The copies are part of the optimizer's state: a checkpoint has them beside the
moments, and training goes on with them.

A departure: gradients stay in the weights' type, where those of a step's forward passes add up.
"""

from __future__ import annotations

from typing import Any

import torch

MASTER = "master"
"""The copy's name in the optimizer's state."""

HALF = (torch.bfloat16, torch.float16)


def keep_masters(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer that has made no step yet work on float32 copies of its weights of half precision.

    Args:
        optimizer: changed in place; its state has the copies from now on, and takes them where it is given any.
    """
    weights: dict[torch.Tensor, torch.nn.Parameter] = {}
    for group in optimizer.param_groups:
        for position, weight in enumerate(group["params"]):
            if weight.dtype in HALF:
                master = torch.nn.Parameter(weight.detach().float())
                weights[master] = weight
                group["params"][position] = master

    def take_gradients(*_: Any) -> None:
        for master, weight in weights.items():
            master.grad = None if weight.grad is None else weight.grad.float()

    @torch.no_grad()
    def round_off(*_: Any) -> None:
        for master, weight in weights.items():
            master.grad = None
            weight.copy_(master)

    def add_masters(_: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        for number, parameter in enumerate(_parameters(optimizer)):
            if parameter in weights:
                state["state"].setdefault(number, {})[MASTER] = parameter.detach()

    @torch.no_grad()
    def restore_masters(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        parameters, others = _parameters(optimizer), {}
        for number, values in state["state"].items():
            if MASTER in values and parameters[number] in weights:
                parameters[number].copy_(values[MASTER])
            others[number] = {name: value for name, value in values.items() if name != MASTER}
        return {**state, "state": others}

    optimizer.register_step_pre_hook(take_gradients)
    optimizer.register_step_post_hook(round_off)
    optimizer.register_state_dict_post_hook(add_masters)
    optimizer.register_load_state_dict_pre_hook(restore_masters)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """All that the optimizer works on, in the order of its state's numbers."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
