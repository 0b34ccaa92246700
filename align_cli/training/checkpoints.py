"""Checkpoints: everything that training needs to go on, and nothing that two equal runs would write differently.

A checkpoint is a folder that `from_pretrained` loads, with `optimizer.safetensors` and `training_state.json` beside the
weights. Nothing is pickled; no time, path or log history is kept. Random generators are seeded anew from (seed, round)
when a round begins, so a checkpoint at a round's end needs no state of theirs; one from within a round has it.

Of a model that several processes train, one from within a round may be in `parts`, which are beside the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from align_cli.artifacts.files import writing_folder
from align_cli.artifacts.scratch import ScratchFolder
from align_cli.artifacts.store import json_document, read_json
from align_cli.errors import DataError
from align_cli.methods.kl_control import KlControl
from align_cli.models.load import Policy, weights_version

if TYPE_CHECKING:
    import torch

    from align_cli.training.parts import MomentsInParts

OPTIMIZER_NAME = "optimizer.safetensors"
STATE_NAME = "training_state.json"
PARTS = "shard-*.safetensors"
"""Files of a checkpoint in parts."""
ALWAYS_WRITTEN = ("round", "global_step", "parent", "scheduler", "optimizer")


@dataclass(frozen=True)
class TrainingState:
    """Where training stands.

    Args:
        round: rounds that the policy has been trained for; 0 is the initial policy.
        global_step: optimizer steps since round 1 began.
        parent: version of the policy that the round started from; None for the initial policy.
        scheduler: the learning-rate scheduler's own state.
        optimizer: what is not a tensor in the optimizer's state.
        kl_control: where the control of the KL stands, if one is held; by the names of `KlControl`.
        steps: within a round, the figures of the steps that are done; None at a round's end.
        random: within a round, the state of the random generators.
    """

    round: int
    global_step: int
    parent: str | None
    scheduler: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    kl_control: dict[str, float] | None = None
    steps: list[dict[str, float]] | None = None
    random: dict[str, Any] | None = None


class WrittenParts(NamedTuple):
    """What all processes have written together.

    Args:
        checksums: of the files, by name.
        rest: what is not a tensor in the optimizer's state.
    """

    checksums: dict[str, str]
    rest: dict[str, Any]


def random_state() -> dict[str, Any]:
    """The state of every random generator that training may draw from, as JSON can hold it."""
    import random

    import numpy as np
    import torch

    version, numbers, gauss = random.getstate()
    algorithm, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [algorithm, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": _as_hex(torch.get_rng_state()),
        "accelerator": _as_hex(accelerator.get_rng_state()) if (accelerator := _accelerator()) else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every random generator where `random_state` found it."""
    import random

    import numpy as np
    import torch

    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_from_hex(state["torch"]))
    if state.get("accelerator") and (accelerator := _accelerator()):
        accelerator.set_rng_state(_from_hex(state["accelerator"]))


def _accelerator() -> Any:
    """torch's module of the accelerator that there is, if any; it speaks of the current device."""
    import torch

    device = torch.accelerator.current_accelerator(check_available=True)
    return torch.get_device_module(device) if device else None


def _as_hex(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _from_hex(text: str) -> torch.Tensor:
    import torch

    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def save_checkpoint(
    folder: Path, policy: Policy, state: TrainingState, optimizer: torch.optim.Optimizer | dict[str, Any] | None
) -> str:
    """Write a checkpoint in one step.

    Args:
        folder: becomes the checkpoint; replaced if it is there.
        policy: model and tokenizer.
        state: where training stands; its `optimizer` is filled in here.
        optimizer: its moments are kept, or its whole state is there already; None keeps none.

    Returns:
        The version of the weights that were written.
    """
    from safetensors.torch import save_file

    from align_cli.training.masters import state_with_masters

    with writing_folder(folder) as temporary:
        policy.save_weights(temporary)
        policy.tokenizer.save_pretrained(temporary)
        if optimizer is not None:
            kept = optimizer if isinstance(optimizer, dict) else state_with_masters(optimizer)
            tensors, rest = split_optimizer_state(kept)
            save_file(tensors, temporary / OPTIMIZER_NAME)
            state = replace(state, optimizer=rest)
        _write_state(temporary, state)
    return weights_version(folder)


def save_in_parts(folder: Path, state: TrainingState, write: Callable[[Path], WrittenParts]) -> dict[str, str]:
    """Write a checkpoint in parts in one step.

    Args:
        folder: becomes the checkpoint; replaced if it is there.
        state: where training stands; its `optimizer` is filled in here.
        write: has all processes write theirs.

    Returns:
        The checksums of the parts, by name.
    """
    with writing_folder(folder) as temporary:
        written = write(temporary)
        _write_state(temporary, replace(state, optimizer=written.rest))
    return written.checksums


def parts_in(folder: Path) -> list[Path]:
    """The parts of a checkpoint; none of one that is whole."""
    return sorted(folder.glob(PARTS))


def _write_state(folder: Path, state: TrainingState) -> None:
    """No step of its own: the folder is made durable as a whole."""
    document = {name: value for name, value in asdict(state).items() if value is not None or name in ALWAYS_WRITTEN}
    (folder / STATE_NAME).write_text(json_document(document), encoding="utf-8", newline="\n")


def unsaved_version(policy: Policy) -> str:
    """The version that the weights would have in a checkpoint, where none is kept."""
    with ScratchFolder() as scratch:
        policy.save_weights(scratch)
        return weights_version(scratch)


def read_training_state(folder: Path) -> TrainingState | None:
    """Where a checkpoint stands, or None for a folder that is somebody else's model."""
    if not (folder / STATE_NAME).is_file():
        return None
    document = read_json(folder / STATE_NAME)
    known = {field.name for field in fields(TrainingState)}
    is_one = isinstance(document, dict) and {"round", "global_step", "parent"} <= document.keys() <= known
    if not is_one or not _is_control(document.get("kl_control")):
        raise DataError("this is no training state", where=str(folder / STATE_NAME), hint="take another checkpoint")
    return TrainingState(**document)


def _is_control(told: Any) -> bool:
    """Whether a control of the KL may stand so, or there is none."""
    if told is None:
        return True
    is_whole = isinstance(told, dict) and told.keys() == set(KlControl._fields)
    return is_whole and all(isinstance(value, int | float) and 0 <= value < math.inf for value in told.values())


def read_optimizer_state(folder: Path, state: TrainingState) -> dict[str, Any] | None:
    """What `optimizer.load_state_dict` takes, or None where the checkpoint has no optimizer."""
    from safetensors.torch import load_file

    if state.optimizer is None or not (folder / OPTIMIZER_NAME).is_file():
        return None
    return join_optimizer_state(load_file(folder / OPTIMIZER_NAME), state.optimizer)


def read_moments(folder: Path, state: TrainingState) -> dict[str, Any] | MomentsInParts | None:
    """As `read_optimizer_state`; of a checkpoint in parts, what reads them in each process."""
    from align_cli.training.parts import MomentsInParts

    if state.optimizer is not None and parts_in(folder):
        return MomentsInParts(folder, state.optimizer)
    return read_optimizer_state(folder, state)


def split_optimizer_state(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by `parameter.name`, or `parameter.group.name`, and the rest as JSON."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for parameter, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{parameter}.{name}"] = value.contiguous()
            elif isinstance(value, dict):  # as optimizers of bitsandbytes have, with tensors that parameters share
                tensors.update({f"{parameter}.{name}.{inner}": part.clone() for inner, part in value.items()})
            else:
                numbers.setdefault(str(parameter), {})[name] = value
    return tensors, {"numbers": numbers, "param_groups": state["param_groups"]}


def join_optimizer_state(tensors: dict[str, torch.Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(key): dict(values) for key, values in rest["numbers"].items()}
    for key, tensor in tensors.items():
        parameter, *groups, name = key.split(".")
        values: dict[str, Any] = state.setdefault(int(parameter), {})
        for group in groups:
            values = values.setdefault(group, {})
        values[name] = tensor
    return {"state": state, "param_groups": rest["param_groups"]}
