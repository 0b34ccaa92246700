"""What a configuration file of accelerate asks for, as far as `launch` can do it; all else is refused by name.

accelerate's own reader is not asked: it imports torch, and passes over what a launcher then does not do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from align_cli.errors import nearest

Wanted = Callable[[Any], bool]


class Complaint(NamedTuple):
    """What of a configuration cannot be had.

    Args:
        what: in words, with key and value.
        hint: the remedy.
    """

    what: str
    hint: str


@dataclass(frozen=True)
class AccelerateConfig:
    """What is asked for.

    Args:
        num_processes: on all machines together; None where it does not say.
        num_machines: likewise.
        machine_rank: of this machine.
        main_process_ip: address of machine 0.
        main_process_port: of its meeting place.
        uses_cpu: whether models are on the CPU though there be an accelerator.
        wants_accelerators: whether its kind of training is one for accelerators.
        is_sharded: whether weights are split over the processes.
        reshards: whether layers are let go between forward and backward pass.
        layers: class names of the layers that are units.
        zero_stage: of DeepSpeed's, which is asked for; 0 where it is not.
        writes_parts: whether checkpoints are asked for in parts.
        mixed_precision: `bf16` or `fp16`; None where it says no, as it does unasked.
    """

    num_processes: int | None = None
    num_machines: int = 1
    machine_rank: int = 0
    main_process_ip: str | None = None
    main_process_port: int | None = None
    uses_cpu: bool = False
    wants_accelerators: bool = False
    is_sharded: bool = False
    reshards: bool = True
    layers: tuple[str, ...] = ()
    zero_stage: int = 0
    writes_parts: bool = False
    mixed_precision: str | None = None


class Read(NamedTuple):
    """A file that was read: what it asks for, and what of that cannot be had."""

    config: AccelerateConfig
    complaints: list[Complaint]


TYPES = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU", "FSDP", "DEEPSPEED")
"""Kinds of `distributed_type` that there is something for."""


def _whole(least: int) -> Wanted:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _one_of(*values: Any) -> Wanted:
    return lambda value: any(value is each or (value == each and type(value) is type(each)) for each in values)


def _any(value: Any) -> bool:
    return True


def _empty(value: Any) -> bool:
    return value in (None, False, "no", {}, [])


_TEXT: Wanted = lambda value: value is None or isinstance(value, str)  # noqa: E731

IN_PARTS = "SHARDED_STATE_DICT"
ITS_OWN = "leave it out: align does it by a key of its own"
KEYS: dict[str, tuple[Wanted, str]] = {
    "compute_environment": (_one_of("LOCAL_MACHINE"), "write LOCAL_MACHINE"),
    "debug": (_one_of(False), "leave it out"),
    "distributed_type": (_one_of(*TYPES, False), f"write one of {', '.join(TYPES)}"),  # YAML reads NO as false
    "downcast_bf16": (_empty, "leave it out"),
    "dynamo_config": (_empty, "leave it out; train.torch_compile compiles"),
    "enable_cpu_affinity": (_one_of(False), "leave it out"),
    "fp8_config": (_empty, "leave it out"),
    "fsdp_config": (_any, ""),
    "deepspeed_config": (_any, ""),
    "gpu_ids": (_one_of(None, "all"), "leave it out, and choose devices by CUDA_VISIBLE_DEVICES"),
    "machine_rank": (_whole(0), "write the number of this machine, from 0"),
    "main_process_ip": (_TEXT, "write the address of machine 0"),
    "main_process_port": (lambda value: value is None or (_whole(1)(value) and value < 65536), "write a free port"),
    "main_training_function": (_one_of("main"), "leave it out"),
    "megatron_lm_config": (_empty, "leave it out"),
    "mixed_precision": (_one_of("no", "bf16", "fp16", False), "write no, bf16 or fp16"),
    "mpirun_config": (_empty, "leave it out"),
    "num_machines": (_whole(1), "write how many machines there are"),
    "num_processes": (_whole(1), "write how many processes there are on all machines together"),
    "parallelism_config": (_empty, "leave it out"),
    "rdzv_backend": (_one_of("static", "c10d"), "write static"),
    "same_network": (_any, ""),
    "tpu_env": (_empty, "leave it out"),
    "tpu_name": (_empty, "leave it out"),
    "tpu_use_cluster": (_empty, "leave it out"),
    "tpu_use_sudo": (_empty, "leave it out"),
    "tpu_zone": (_empty, "leave it out"),
    "use_cpu": (_one_of(True, False), "write true or false"),
}
FSDP_KEYS: dict[str, tuple[Wanted, str]] = {
    "fsdp_version": (_one_of(2), "write 2: FSDP 1 is not served"),
    "fsdp_reshard_after_forward": (_one_of(True, False), "write true (as ZeRO-3) or false (as ZeRO-2)"),
    "fsdp_auto_wrap_policy": (_one_of("TRANSFORMER_BASED_WRAP"), "write TRANSFORMER_BASED_WRAP"),
    "fsdp_transformer_layer_cls_to_wrap": (_TEXT, "write class names with commas between them"),
    "fsdp_offload_params": (_one_of(False), "leave it out: weights are not kept on the CPU"),
    "fsdp_state_dict_type": (
        _one_of("FULL_STATE_DICT", IN_PARTS),
        f"write FULL_STATE_DICT, with which checkpoints are gathered, or {IN_PARTS}, with which those from within a "
        "round are not",
    ),
    "fsdp_cpu_ram_efficient_loading": (_one_of(False), "write false: each process reads the model by itself"),
    "fsdp_activation_checkpointing": (_one_of(False), "leave it out; train.gradient_checkpointing does it"),
}
DEEPSPEED_KEYS: dict[str, tuple[Wanted, str]] = {
    "zero_stage": (_one_of(0, 2, 3), "write 2 or 3, or 0 for whole weights in every process"),
    "offload_optimizer_device": (_one_of("none", None), "write none: moments are not kept on the CPU"),
    "offload_param_device": (_one_of("none", None), "write none: weights are not kept on the CPU"),
    "gradient_accumulation_steps": (_one_of(1, "auto"), ITS_OWN + ", train.gradient_accumulation_steps"),
    "gradient_clipping": (_one_of("auto", None), ITS_OWN + ", train.max_grad_norm"),
    "zero3_init_flag": (_any, ""),
    "zero3_save_16bit_model": (_any, ""),
    "deepspeed_multinode_launcher": (_one_of("standard"), "write standard: align is started on every machine"),
}


def read_accelerate_config(path: Path) -> Read:
    """Read a file of `accelerate config`.

    Args:
        path: which is there.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        first = " ".join(str(error).split())
        return Read(
            AccelerateConfig(), [Complaint(f"it cannot be read: {first}", "write it anew by accelerate config")]
        )
    if not isinstance(tree, dict):
        return Read(AccelerateConfig(), [Complaint("it holds no keys", "write it anew by accelerate config")])
    complaints = list(_complaints(tree, KEYS))
    kind = tree.get("distributed_type", "NO") or "NO"
    sections = {"fsdp_config": (FSDP_KEYS, "FSDP"), "deepspeed_config": (DEEPSPEED_KEYS, "DEEPSPEED")}
    for name, (keys, own) in sections.items():
        section = tree.get(name) or {}
        if not isinstance(section, dict):
            complaints.append(Complaint(f"{name} is {section!r}; it must hold keys", "write it anew"))
        elif section and kind != own:
            complaints.append(
                Complaint(f"it has {name}, and distributed_type is {kind}", f"write {own}, or leave it out")
            )
        else:
            complaints += _complaints(section, keys)
    if kind == "FSDP" and (tree.get("fsdp_config") or {}).get("fsdp_version") is None:
        complaints.append(Complaint("fsdp_config.fsdp_version is not there", FSDP_KEYS["fsdp_version"][1]))
    return Read(AccelerateConfig() if complaints else _config(tree, kind), complaints)


def _complaints(tree: Mapping[Any, Any], keys: Mapping[str, tuple[Wanted, str]]) -> list[Complaint]:
    found = []
    for key, value in tree.items():
        if key not in keys:
            near = nearest(str(key), keys)
            hint = f"did you mean {near}?" if near else "leave it out: align knows nothing to do for it"
            found.append(Complaint(f"{key} is no key that align knows of accelerate's", hint))
        elif not keys[key][0](value):
            found.append(Complaint(f"{key} is {value!r}, which is not served", keys[key][1]))
    return found


def _config(tree: Mapping[str, Any], kind: str) -> AccelerateConfig:
    fsdp, deepspeed = tree.get("fsdp_config") or {}, tree.get("deepspeed_config") or {}
    stage = deepspeed.get("zero_stage", 2) if kind == "DEEPSPEED" else 0
    layers = fsdp.get("fsdp_transformer_layer_cls_to_wrap") or ""
    precision = tree.get("mixed_precision")
    return AccelerateConfig(
        num_processes=tree.get("num_processes"),
        num_machines=tree.get("num_machines", 1),
        machine_rank=tree.get("machine_rank", 0),
        main_process_ip=tree.get("main_process_ip"),
        main_process_port=tree.get("main_process_port"),
        uses_cpu=bool(tree.get("use_cpu", False)) or kind == "MULTI_CPU",
        wants_accelerators=kind in ("MULTI_GPU", "MULTI_NPU", "MULTI_XPU") and not tree.get("use_cpu", False),
        is_sharded=kind == "FSDP" or stage >= 2,
        reshards=bool(fsdp.get("fsdp_reshard_after_forward", True)) if kind == "FSDP" else stage == 3,
        layers=tuple(name.strip() for name in layers.split(",") if name.strip()),
        zero_stage=stage,
        writes_parts=fsdp.get("fsdp_state_dict_type") == IN_PARTS,
        mixed_precision=precision if precision in ("bf16", "fp16") else None,
    )
