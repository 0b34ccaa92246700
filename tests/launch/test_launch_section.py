"""What a recipe says of processes, and a file of accelerate's in its place: read, or refused where it cannot be had."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from align_cli.errors import RecipeError
from align_cli.launch.crew import crew_of
from align_cli.recipe import Recipe, load_recipe
from align_cli.recipe.checking.accelerate_config import DEEPSPEED_KEYS, FSDP_KEYS, KEYS, read_accelerate_config

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted(
    path for path in (ROOT / "recipes" / "launch").glob("*.yaml") if "distributed_type" in path.read_text()
)
RECIPE = ROOT / "recipes" / "quickstart.yaml"  # 64 pairs a step


def load(*overrides: str) -> Recipe:
    return load_recipe(RECIPE, overrides)


def faults(*overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(*overrides)
    return [f"{fault.what} / {fault.hint}" for fault in caught.value.faults]


def config(folder: Path, **keys: Any) -> str:
    file = folder / "accelerate.yaml"
    file.write_text(yaml.safe_dump(keys))
    return f"launch.accelerate_config={file}"


def test_processes_that_cannot_share_a_step_evenly_are_refused():
    (fault,) = faults("launch.num_processes=3")
    assert fault.startswith("a step has 64 pairs")
    assert "3 processes cannot share evenly / take 63 pairs a step" in fault
    assert load("launch.num_processes=4").launch.config.num_processes == 4


def test_the_step_that_is_shared_is_the_recipes_whole_one():
    assert load("launch.num_processes=8", "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2")


def test_several_machines_have_to_be_told_where_they_meet():
    found = faults("launch.num_processes=4", "launch.num_machines=2")
    assert [fault.split(" / ")[0] for fault in found] == [
        "launch.num_machines is 2, and launch.main_process_ip is not there",
        "launch.num_machines is 2, and launch.main_process_port is not there",
    ]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["launch.num_machines=3", "launch.main_process_ip=a", "launch.main_process_port=1"],
            "cannot be spread evenly",
        ),
        (["launch.machine_rank=1"], "launch.machine_rank is 1, and launch.num_machines is 1"),
        (["policy.device=cuda:1"], "each process takes the device of its own"),
        (
            [
                "launch.strategy=fsdp2",
                "policy.sft=null",
                "policy.model_name_or_path=./m",
                "policy.lora={rank: 4}",
                "policy.quantization={bits: 4}",
            ],
            "weights of a few bits (policy.quantization) are not made for / set launch.strategy to ddp",
        ),
        (["launch.accelerate_config=nowhere.yaml"], "there is no such file"),
        (["launch.main_process_port=70000"], "at most 65535"),
    ],
)
def test_what_does_not_go_together_is_refused(
    overrides: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    assert any(words in fault for fault in faults("launch.num_processes=2", *overrides))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_accelerates_and_a_recipe_takes_it(path: Path):
    from accelerate.commands.config.config_args import ClusterConfig

    assert ClusterConfig.from_yaml_file(str(path)).num_processes == yaml.safe_load(path.read_text())["num_processes"]
    found = load(f"launch.accelerate_config={path}").launch.config
    assert found.num_processes == (2 if path.stem == "cpu" else 8)
    assert found.is_sharded == (path.stem in ("fsdp2", "zero2", "zero3"))
    assert found.reshards == (path.stem not in ("zero2",)) or not found.is_sharded


def test_every_key_is_one_of_accelerates():
    from accelerate.commands.config.config_args import ClusterConfig

    assert set(KEYS) <= {field.name for field in fields(ClusterConfig)}


def test_keys_of_the_recipe_go_before_the_files(tmp_path: Path):
    file = config(tmp_path, distributed_type="MULTI_CPU", num_processes=2)
    assert load(file).launch.config.num_processes == 2
    assert load(file, "launch.num_processes=4").launch.config.num_processes == 4
    assert load(file, "launch.strategy=fsdp2").launch.config.is_sharded


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"num_procesess": 2},
            "num_procesess is no key that align knows of accelerate's / did you mean num_processes?",
        ),
        ({"distributed_type": "MEGATRON_LM"}, "distributed_type is 'MEGATRON_LM', which is not served"),
        ({"compute_environment": "AMAZON_SAGEMAKER"}, "write LOCAL_MACHINE"),
        ({"num_processes": 0}, "num_processes is 0"),
        ({"gpu_ids": "0,1"}, "choose devices by CUDA_VISIBLE_DEVICES"),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 1}}, "FSDP 1 is not served"),
        ({"distributed_type": "FSDP"}, "fsdp_config.fsdp_version is not there"),
        (
            {
                "distributed_type": "FSDP",
                "fsdp_config": {"fsdp_version": 2, "fsdp_state_dict_type": "LOCAL_STATE_DICT"},
            },
            "write FULL_STATE_DICT, with which checkpoints are gathered, or SHARDED_STATE_DICT",
        ),
        (
            {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2, "fsdp_offload_params": True}},
            "weights are not kept on the CPU",
        ),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 1}}, "write 2 or 3"),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"offload_optimizer_device": "cpu"}},
            "moments are not kept on the CPU",
        ),
        ({"deepspeed_config": {"zero_stage": 2}}, "it has deepspeed_config, and distributed_type is NO"),
        ({"fsdp_config": "yes"}, "it must hold keys"),
        ({"mixed_precision": "bf16"}, "set train.bf16 to true"),
    ],
)
def test_a_configuration_that_asks_for_what_is_not_there_is_refused(keys: dict[str, Any], words: str, tmp_path: Path):
    assert any(words in fault for fault in faults(config(tmp_path, **keys)))


def test_a_configuration_that_is_no_yaml_is_refused(tmp_path: Path):
    file = tmp_path / "accelerate.yaml"
    for text, words in (("a: [", "it cannot be read"), ("", "it holds no keys"), ("- 1\n", "it holds no keys")):
        file.write_text(text)
        assert any(words in fault for fault in faults(f"launch.accelerate_config={file}"))


def test_zero_is_a_split_model_whose_layers_stay_or_go(tmp_path: Path):
    for stage, is_sharded, reshards in ((0, False, False), (2, True, False), (3, True, True)):
        file = tmp_path / "accelerate.yaml"
        file.write_text(yaml.safe_dump({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": stage}}))
        found = read_accelerate_config(file).config
        assert (found.is_sharded, found.reshards) == (is_sharded, reshards)


def test_what_is_served_of_the_sections_can_be_written():
    """Each key of the tables has a value that is taken: else it were better not there."""
    good: dict[str, Any] = {
        "fsdp_version": 2,
        "fsdp_reshard_after_forward": False,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        "zero_stage": 3,
        "offload_optimizer_device": "none",
        "offload_param_device": "none",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "deepspeed_multinode_launcher": "standard",
    }
    for key, (is_served, _) in {**FSDP_KEYS, **DEEPSPEED_KEYS}.items():
        assert is_served(good.get(key, False)), key


def test_adapters_and_a_split_base_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    lora = ("policy.sft=null", "policy.model_name_or_path=./m", "policy.lora={rank: 4}")
    assert load("launch.num_processes=2", "launch.strategy=fsdp2", *lora).launch.config.is_sharded


def test_what_asks_for_sharded_checkpoints_gets_them_unless_the_recipe_says_otherwise(tmp_path: Path):
    asked = config(
        tmp_path,
        distributed_type="FSDP",
        num_processes=2,
        fsdp_config={"fsdp_version": 2, "fsdp_state_dict_type": "SHARDED_STATE_DICT"},
    )
    for overrides, writes_parts in (
        ([asked], True),
        ([asked, "checkpoints.sharded=false"], False),
        (["launch.num_processes=2", "launch.strategy=fsdp2"], False),
        (["launch.num_processes=2", "launch.strategy=fsdp2", "checkpoints.sharded=true"], True),
    ):
        crew = crew_of(load(*overrides), print, print, None)
        assert crew is not None and crew.sharding is not None
        assert crew.sharding.writes_parts == writes_parts, overrides


def test_what_is_carried_out_otherwise_than_it_reads_is_said(tmp_path: Path):
    zero3 = config(
        tmp_path, distributed_type="DEEPSPEED", num_processes=2, use_cpu=True, deepspeed_config={"zero_stage": 3}
    )
    for overrides, words in (
        ([zero3], ["ZeRO-3 is carried out by torch's FSDP2"]),
        ([zero3, "launch.strategy=ddp", "checkpoints.sharded=true"], ["rank 0 writes whole checkpoints"]),
        (["launch.num_processes=2", "launch.strategy=fsdp2", "checkpoints.sharded=true"], []),
        (["launch.num_processes=2"], []),
    ):
        crew = crew_of(load(*overrides), print, print, None)
        assert crew is not None
        said = list(crew._notes())
        assert len(said) == len(words), overrides
        assert all(part in line for part, line in zip(words, said, strict=True))


def test_sharded_checkpoints_that_do_nothing_are_worth_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from align_cli.recipe import warnings_for

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    sharded = ("launch.num_processes=2", "launch.strategy=fsdp2", "checkpoints.sharded=true")
    lora = ("policy.sft=null", "policy.model_name_or_path=./m", "policy.lora={rank: 4}")
    for overrides, words in (
        ((), ["set checkpoints.every_steps"]),
        (("checkpoints.every_steps=5", *lora), ["adapters are small, and gathered all the same"]),
        (("checkpoints.every_steps=5",), []),
    ):
        found = [warning for warning in warnings_for(load(*sharded, *overrides)) if "checkpoints.sharded" in warning]
        assert len(found) == len(words)
        assert all(part in warning for part, warning in zip(words, found, strict=True))


def test_isolated_stages_without_checkpoints_are_worth_a_warning():
    from align_cli.recipe import warnings_for

    recipe = load("launch.isolate=true", "checkpoints.every_rounds=2")
    assert any("launch.isolate" in warning for warning in warnings_for(recipe))
