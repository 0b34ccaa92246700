"""`launch`: how many processes a run has, on which machines, and how they share the model that is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from align_cli.recipe.checking.accelerate_config import AccelerateConfig, read_accelerate_config
from align_cli.recipe.checking.files import empty_texts, missing_file
from align_cli.recipe.checking.section import Section
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.data_names import exists

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe

CONFIG = "launch.accelerate_config"
FROM_CONFIG = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")
"""Keys that an accelerate configuration may say in the recipe's place."""


class LaunchSection(Section):
    """`launch`: the processes of a run. A batch is the recipe's, however many of them share it."""

    num_processes: int | None = Field(
        None,
        ge=1,
        description="processes on all machines together, started by align; left out: as launch.accelerate_config says, "
        "else one. accelerate launch, torchrun and Slurm say it by themselves",
    )
    num_machines: int | None = Field(None, ge=1, description="machines; the same command runs on each of them")
    machine_rank: int | None = Field(None, ge=0, description="number of this machine; 0 is the one that leads")
    main_process_ip: str | None = Field(None, description="address of machine 0; this machine where there is but one")
    main_process_port: int | None = Field(
        None, ge=1, le=65535, description="where processes meet on machine 0; left out: any free port, on one machine"
    )
    strategy: Literal["ddp", "fsdp2"] | None = Field(
        None,
        description="whether every process holds the whole model while it trains (ddp), or a part of it (fsdp2); left "
        "out: as launch.accelerate_config says, else ddp",
    )
    accelerate_config: str | None = Field(None, description="a file that accelerate config wrote; keys here go before")
    timeout_seconds: int = Field(
        1800, ge=1, description="for how long processes wait for one another in the midst of a step"
    )
    isolate: bool = Field(
        False, description="whether each stage runs in a process of its own, so that nothing stays in memory between"
    )

    @property
    def config(self) -> AccelerateConfig:
        """What the file of accelerate and the keys beside it say together."""
        path = self.accelerate_config
        found = read_accelerate_config(Path(path)).config if path is not None else AccelerateConfig()
        own = {name: value for name in FROM_CONFIG if (value := getattr(self, name)) is not None}
        if self.strategy is not None:
            own["is_sharded"] = self.strategy == "fsdp2"
        return AccelerateConfig(**{**vars(found), **own})


def _config_of(view: View) -> AccelerateConfig:
    """The section's configuration; the rules of its file find the faults of that."""
    keys = (*FROM_CONFIG, "strategy", "accelerate_config")
    values = {name: view.get(f"launch.{name}") for name in keys}
    path = values["accelerate_config"]
    if path is not None and not Path(path).is_file():
        values["accelerate_config"] = None
    return LaunchSection(**values).config


def _batches_can_be_shared(view: View) -> Iterator[RuleFault]:
    number = _config_of(view).num_processes or 1
    batch = view.get("train.per_device_train_batch_size") * view.get("train.gradient_accumulation_steps")
    if batch % number:
        near = [size for size in range(1, batch + number + 1) if size % number == 0]
        what = (
            f"a step has {batch} pairs (train.per_device_train_batch_size times train.gradient_accumulation_steps), "
            f"which {number} processes cannot share evenly"
        )
        hint = f"take {min(near, key=lambda size: abs(size - batch))} pairs a step, or another number of processes"
        yield rule_fault("launch.num_processes", what, hint)


def _machines_have_what_they_need(view: View) -> Iterator[RuleFault]:
    config = _config_of(view)
    number = config.num_processes or 1
    if number % config.num_machines:
        what = f"launch.num_machines is {config.num_machines}; {number} processes cannot be spread evenly over them"
        yield rule_fault("launch.num_machines", what, "launch.num_processes counts those of all machines together")
    if config.machine_rank >= config.num_machines:
        what = f"launch.machine_rank is {config.machine_rank}, and launch.num_machines is {config.num_machines}"
        yield rule_fault("launch.machine_rank", what, "machines are numbered from 0")
    if config.num_machines > 1:
        for name in ("main_process_ip", "main_process_port"):
            if getattr(config, name) is None:
                what = f"launch.num_machines is {config.num_machines}, and launch.{name} is not there"
                yield rule_fault(f"launch.{name}", what, "say where the processes of all machines meet")


def _few_bits_are_not_split(view: View) -> Iterator[RuleFault]:
    if _config_of(view).is_sharded and view.has("policy.quantization"):
        what = "launch splits the model over the processes, which weights of a few bits (policy.quantization) are not "
        hint = "set launch.strategy to ddp; or leave policy.quantization out, and the base of adapters is split"
        yield rule_fault("launch.strategy", f"{what}made for", hint)


def _is_no_device_of_one(view: View) -> Iterator[RuleFault]:
    device = view.get("policy.device")
    if (_config_of(view).num_processes or 1) > 1 and ":" in device:
        what = f"policy.device is {device}, and launch.num_processes is more than 1"
        yield rule_fault("policy.device", what, "leave out the number: each process takes the device of its own")


def _config_can_be_had(view: View) -> Iterator[RuleFault]:
    yield from empty_texts(view, CONFIG)
    path = view.sound(CONFIG)
    if path is None or not path.strip():
        return
    if not exists(path):
        yield from missing_file(CONFIG, path)
        return
    read = read_accelerate_config(Path(path))
    for complaint in read.complaints:
        yield rule_fault(CONFIG, f"{path}: {complaint.what}", complaint.hint)
    precision = read.config.mixed_precision
    if precision is not None and not (view.get("train") or {}).get(precision):
        what = f"{path}: mixed_precision is {precision}, and train.{precision} is not true"
        yield rule_fault(CONFIG, what, f"set train.{precision} to true, or mixed_precision to no")


def _isolated_without_checkpoints(recipe: Recipe) -> list[str]:
    if recipe.launch.isolate and recipe.checkpoints.every_rounds > 1:
        what = "launch.isolate with checkpoints.every_rounds above 1: a stage whose round has no checkpoint trains it"
        return [f"{what} again"]
    return []


RULES: tuple[Rule, ...] = (
    _batches_can_be_shared,
    _machines_have_what_they_need,
    _few_bits_are_not_split,
    _is_no_device_of_one,
)
FILE_RULES: tuple[Rule, ...] = (_config_can_be_had,)
WARNINGS = (_isolated_without_checkpoints,)
