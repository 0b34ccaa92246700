"""Which processes there are: by a launcher's word in the environment, or by the recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align_cli.errors import RunError
from align_cli.launch.world import environment_of, own_world, told_world
from align_cli.recipe.checking.accelerate_config import AccelerateConfig

TORCHRUN = {
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "GROUP_RANK": "1",
}


def test_a_process_alone_has_no_world():
    assert told_world({}) is None
    assert told_world({"WORLD_SIZE": "1", "RANK": "0"}) is None


def test_what_torchrun_says_is_read_and_taken_out_of_the_environment():
    environment = {**TORCHRUN, "HOME": "/home/me", "CUDA_VISIBLE_DEVICES": "0,1"}
    world = told_world(environment)
    assert world is not None
    assert (world.number, world.rank, world.local_rank, world.address, world.port) == (4, 3, 1, "node0", 29500)
    assert world.is_agents
    assert world.config is None
    assert environment == {"HOME": "/home/me", "CUDA_VISIBLE_DEVICES": "0,1"}


def test_a_meeting_after_a_restart_is_another_one():
    again = told_world({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "3"})
    first = told_world(dict(TORCHRUN))
    assert again is not None
    assert first is not None
    assert again.name != first.name


def test_a_follower_reads_what_its_leader_wrote():
    world = told_world({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "", "TORCHELASTIC_RESTART_COUNT": "0"})
    assert world is not None
    assert told_world(environment_of(world)) == world


def test_slurms_ranks_do_without_an_agent():
    world = told_world({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"})
    assert world is not None
    assert not world.is_agents
    assert world.local_rank == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is two, which is no number"),
        ({"RANK": "4"}, "RANK is 4, and WORLD_SIZE is 4"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR not set"),
        ({"RANK": "", "MASTER_PORT": ""}, "RANK and MASTER_PORT not set"),
    ],
)
def test_a_world_that_makes_no_sense_is_refused(changes: dict[str, str], words: str):
    with pytest.raises(RunError, match=words):
        told_world({**TORCHRUN, **changes})


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_MIXED_PRECISION": "bf16"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


def test_accelerate_launch_says_how_the_model_is_split():
    fsdp = told_world({**TORCHRUN, **FSDP, "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer"})
    zero2 = told_world({**TORCHRUN, **DEEPSPEED})
    plain = told_world({**TORCHRUN, "ACCELERATE_MIXED_PRECISION": "no"})
    assert fsdp is not None
    assert zero2 is not None
    assert plain is not None
    assert fsdp.config == AccelerateConfig(
        is_sharded=True, reshards=True, layers=("LlamaDecoderLayer",), mixed_precision="bf16"
    )
    assert zero2.config is not None
    assert (zero2.config.is_sharded, zero2.config.reshards, zero2.config.zero_stage) == (True, False, 2)
    in_parts = told_world({**TORCHRUN, **FSDP, "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"})
    assert in_parts is not None
    assert in_parts.config is not None
    assert in_parts.config.writes_parts
    assert plain.config == AccelerateConfig()  # which accelerate launch says where nobody has asked for it


@pytest.mark.parametrize(
    "changes",
    [
        {**FSDP, "FSDP_VERSION": "1"},
        {**FSDP, "FSDP_OFFLOAD_PARAMS": "true"},
        {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"},
        {**DEEPSPEED, "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"},
    ],
)
def test_what_a_launcher_asks_for_in_vain_is_refused(changes: dict[str, str]):
    with pytest.raises(RunError, match="is not served"):
        told_world({**TORCHRUN, **changes})


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    return lambda **launch: tiny_recipe(tmp_path, **{f"launch__{name}": value for name, value in launch.items()})


def test_a_recipe_without_a_number_is_one_process(recipe: Callable[..., Any]):
    assert own_world(recipe()) is None
    assert own_world(recipe(num_processes=1)) is None


def test_a_recipe_starts_processes_on_this_machine(recipe: Callable[..., Any]):
    world = own_world(recipe(num_processes=2))
    assert world is not None
    assert (world.number, world.rank, world.address, world.port) == (2, 0, "127.0.0.1", 0)


def test_the_second_machine_begins_with_the_rank_behind_the_firsts(recipe: Callable[..., Any]):
    where = {"num_machines": 2, "main_process_ip": "node0", "main_process_port": 29500}
    world = own_world(recipe(num_processes=4, machine_rank=1, **where))
    assert world is not None
    assert (world.number, world.rank, world.address, world.port) == (4, 2, "node0", 29500)


def test_a_configuration_of_accelerate_counts_where_the_recipe_says_nothing(recipe: Callable[..., Any], tmp_path: Path):
    file = tmp_path / "two.yaml"
    file.write_text("distributed_type: MULTI_CPU\nnum_processes: 2\n")
    two = own_world(recipe(accelerate_config=str(file)))
    four = own_world(recipe(accelerate_config=str(file), num_processes=4))
    assert two is not None
    assert four is not None
    assert (two.number, four.number) == (2, 4)
