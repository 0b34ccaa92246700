"""Which processes there are, and which of them this is.

`accelerate launch`, torchrun and Slurm say so in the environment, by torch's names. It is read once and taken out of
the environment: what transformers and accelerate find there they would act on, each in its own way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from align_cli.errors import RunError
from align_cli.recipe.checking.accelerate_config import IN_PARTS, AccelerateConfig

if TYPE_CHECKING:
    from align_cli.recipe import Recipe

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PREFIXES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "GROUP_", "ROLE_")
AGENT = "TORCHELASTIC_USE_AGENT_STORE"
HERE = "127.0.0.1"


@dataclass(frozen=True)
class World:
    """All processes, from where one of them stands.

    Args:
        number: how many there are.
        rank: of this one.
        local_rank: its number on its machine.
        address: where they meet.
        port: likewise; 0 for any that is free.
        name: of this meeting, so that one that failed is not taken for the next.
        is_agents: whether somebody else keeps the meeting place.
        config: what the launcher says of how the model is split; None where it says nothing.
    """

    number: int
    rank: int
    local_rank: int
    address: str
    port: int
    name: str = "align 0"
    is_agents: bool = False
    config: AccelerateConfig | None = None


def told_world(environment: MutableMapping[str, str] | None = None) -> World | None:
    """The world that a launcher has told this process of, which is taken out of the environment; None for none.

    Raises:
        RunError: if what it says makes no sense.
    """
    environment = os.environ if environment is None else environment
    if _number(environment, "WORLD_SIZE", 1) <= 1:
        return None
    lacking = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if lacking:
        raise RunError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, and {' and '.join(lacking)} not set",
            where="WORLD_SIZE",
            hint="start align by accelerate launch, torchrun or srun as docs/scaling.md has it; or unset WORLD_SIZE",
        )
    number, rank = _number(environment, "WORLD_SIZE"), _number(environment, "RANK")
    if not 0 <= rank < number:
        raise RunError(f"RANK is {rank}, and WORLD_SIZE is {number}", where="RANK", hint="ranks count from 0")
    world = World(
        number=number,
        rank=rank,
        local_rank=_number(environment, "LOCAL_RANK", rank),
        address=environment["MASTER_ADDR"],
        port=_number(environment, "MASTER_PORT"),
        name=f"align {environment.get('TORCHELASTIC_RESTART_COUNT', 0)}",
        is_agents=environment.get(AGENT) == "True",
        config=_told_config(environment),
    )
    for name in list(environment):
        if name in NAMES or name.startswith(PREFIXES):
            del environment[name]
    return world


@cache
def this_world() -> World | None:
    """The world that a launcher has told this process of; asked for once, since it is in the environment but once."""
    return told_world()


def own_world(recipe: Recipe) -> World | None:
    """The world that a recipe asks for, from where the first process of this machine stands; None for one process."""
    config = recipe.launch.config
    number = config.num_processes or 1
    if number == 1:
        return None
    rank = config.machine_rank * (number // config.num_machines)
    return World(number, rank, 0, config.main_process_ip or HERE, config.main_process_port or 0)


def environment_of(world: World) -> dict[str, str]:
    """What `told_world` reads it from."""
    return {
        "WORLD_SIZE": str(world.number),
        "RANK": str(world.rank),
        "LOCAL_RANK": str(world.local_rank),
        "MASTER_ADDR": world.address,
        "MASTER_PORT": str(world.port),
    }


def _number(environment: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environment.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise RunError(f"{name} is {text}, which is no number", where=name, hint=f"unset {name}") from None


def _told_config(environment: Mapping[str, str]) -> AccelerateConfig | None:
    """What `accelerate launch` says of how the model is split; None where it says nothing.

    Raises:
        RunError: if it cannot be had.
    """
    told = environment.get("ACCELERATE_MIXED_PRECISION")
    precision = told if told in ("bf16", "fp16") else None
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        offload = [environment.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part}_DEVICE", "none") for part in _OFFLOADED]
        if stage not in ("0", "2", "3") or any(device not in ("none", "None") for device in offload):
            raise _not_served("DeepSpeed with stage 1 or with weights or moments kept on the CPU", "zero3")
        return AccelerateConfig(
            is_sharded=stage != "0", reshards=stage == "3", zero_stage=int(stage), mixed_precision=precision
        )
    if environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        if environment.get("FSDP_VERSION") != "2" or environment.get("FSDP_OFFLOAD_PARAMS", "false") == "true":
            raise _not_served("FSDP 1, or FSDP with weights kept on the CPU", "fsdp2")
        layers = environment.get("FSDP_TRANSFORMER_CLS_TO_WRAP") or ""
        return AccelerateConfig(
            is_sharded=True,
            reshards=environment.get("FSDP_RESHARD_AFTER_FORWARD", "true") in ("true", "FULL_SHARD"),
            layers=tuple(name.strip() for name in layers.split(",") if name.strip() not in ("", "None")),
            writes_parts=environment.get("FSDP_STATE_DICT_TYPE") == IN_PARTS,
            mixed_precision=precision,
        )
    return AccelerateConfig(mixed_precision=precision) if told is not None else None


_OFFLOADED = ("OPTIMIZER", "PARAM")


def _not_served(what: str, config: str) -> RunError:
    return RunError(
        f"accelerate launch asks for {what}, which is not served",
        where="accelerate launch",
        hint=f"start it with a configuration like recipes/launch/{config}.yaml",
    )
