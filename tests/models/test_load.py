from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Gemma3Config

from align_cli.artifacts.checksums import checksum
from align_cli.errors import AlignError
from align_cli.models.load import Policy, load_policy, load_without_weights, shape_of, uses_cache, weights_version
from align_cli.models.of_recipe import load_recipe_tokenizer
from align_cli.playground.model import make_policy
from align_cli.recipe import Recipe
from align_cli.recipe.sections.policy import PolicySection


@pytest.fixture
def folder(tiny_policy_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny policy that a test may break."""
    return Path(shutil.copytree(tiny_policy_folder, tmp_path / "policy"))


def test_a_policy_comes_ready_to_be_sampled(tiny_policy: Policy) -> None:
    assert not tiny_policy.model.training
    assert tiny_policy.tokenizer.padding_side == "left"
    assert tiny_policy.tokenizer.pad_token_id is not None
    assert {weight.dtype for weight in tiny_policy.model.parameters()} == {torch.float32}
    assert tiny_policy.eos_token_ids == [tiny_policy.tokenizer.eos_token_id]


def test_weights_come_in_the_type_asked_for(tiny_policy_folder: Path) -> None:
    policy = load_policy(tiny_policy_folder, dtype="bfloat16")
    assert {weight.dtype for weight in policy.model.parameters()} == {torch.bfloat16}


def test_attention_is_computed_as_asked_for(tiny_policy_folder: Path) -> None:
    models = [load_policy(tiny_policy_folder, attn_implementation=name).model for name in (None, "eager")]
    assert [model.config._attn_implementation for model in models] == ["sdpa", "eager"]


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3"])
def test_attention_that_cannot_be_had_is_refused_without_weights(folder: Path, name: Any) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(AlignError, match=f"policy.attn_implementation is {name}; this model cannot have it") as refused:
        shape_of(PolicySection(model_name_or_path=str(folder), attn_implementation=name))
    assert refused.value.faults[0].where == "policy.attn_implementation"


def test_a_tokenizer_without_padding_pads_with_its_end_of_sequence(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token_id is None
    policy = load_policy(folder)
    assert policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id


def test_what_ends_a_response_is_the_tokenizers_and_the_generation_configs(folder: Path) -> None:
    policy = load_policy(folder)
    own = policy.tokenizer.eos_token_id
    for configured, expected in ((9, {own, 9}), ([9, own, 8], {8, 9, own}), (None, {own})):
        policy.model.generation_config.eos_token_id = configured
        assert policy.eos_token_ids == sorted(expected)


def test_a_missing_folder_is_a_user_error(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(AlignError, match="there is no such model folder") as caught:
        load_policy(missing)
    assert caught.value.faults[0].where == str(missing)
    assert "save_pretrained" in caught.value.faults[0].hint


def test_a_hub_id_that_cannot_be_reached_is_a_user_error() -> None:
    with pytest.raises(AlignError, match="nobody/nothing: the model cannot be loaded"):
        load_policy("nobody/nothing")


def test_a_folder_without_safetensors_is_a_user_error(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(AlignError, match="the model cannot be loaded"):
        load_policy(folder)


@pytest.mark.parametrize("beside", ["whole weights", "nothing"])
def test_an_adapter_is_refused_and_not_passed_over(
    beside: str, folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    if beside == "nothing":
        shutil.rmtree(folder)
        folder.mkdir()
    written = {"base_model_name_or_path": "nobody/nothing", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(written), encoding="utf-8")
    recipe = tiny_recipe(folder.parent, policy={"model_name_or_path": str(folder)})
    for load in (lambda: load_policy(folder), lambda: load_recipe_tokenizer(recipe)):
        with pytest.raises(AlignError, match=r"there is an adapter here \(adapter_config\.json\)") as caught:
            load()
        assert caught.value.faults[0].where == str(folder) and "policy.lora.adapter" in caught.value.faults[0].hint


def test_tensors_of_other_shapes_than_the_config_asks_for_are_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["intermediate_size"] += 8
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(AlignError, match="has tensors of other shapes than its config asks for: ") as caught:
        load_policy(folder)
    assert "mlp.down_proj.weight" in str(caught.value) and "architecture, layers and sizes" in str(caught.value)


def test_a_model_that_asks_for_a_package_which_is_not_there_is_not_called_damaged(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(AlignError, match=r"the model cannot be loaded: ImportError: .*bitsandbytes") as caught:
        load_policy(folder)
    assert caught.value.faults[0].hint.startswith("install what the model asks for")


def test_pickled_weights_are_not_loaded(folder: Path, tiny_policy: Policy) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_policy.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(AlignError, match="the model cannot be loaded"):
        load_policy(folder)


def test_an_empty_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(AlignError, match="this folder holds no model"):
        load_policy(tmp_path)


def test_a_broken_configuration_is_a_user_error(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(AlignError, match="the model cannot be loaded"):
        load_policy(folder)


@pytest.mark.parametrize("content", [b"", b"not safetensors", None], ids=["empty", "junk", "cut"])
def test_broken_weights_are_a_user_error(content: bytes | None, folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50_000] if content is None else content)
    with pytest.raises(AlignError, match="the model cannot be loaded"):
        load_policy(folder)


def test_a_tokenizer_without_end_of_sequence_is_a_user_error(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(AlignError, match="the tokenizer has no end-of-sequence token") as caught:
        load_policy(folder)
    assert caught.value.faults[0].hint == "set eos_token and save it"


def test_a_version_names_the_weights_and_nothing_else(folder: Path, tiny_policy: Policy) -> None:
    renamed = folder.rename(folder.with_name("another-name"))
    (renamed / "notes.txt").write_text("mine")
    (renamed / "generation_config.json").unlink()
    assert load_policy(renamed).version == tiny_policy.version == weights_version(renamed)
    assert len(tiny_policy.version) == 16 and int(tiny_policy.version, 16) >= 0


def test_other_weights_have_another_version(folder: Path, tmp_path: Path, tiny_policy: Policy) -> None:
    make_policy(tmp_path / "other", seed=1)
    assert weights_version(tmp_path / "other") != tiny_policy.version
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert weights_version(folder) != tiny_policy.version


def test_a_policy_saved_as_it_was_loaded_keeps_its_version(tiny_policy: Policy, tmp_path: Path) -> None:
    tiny_policy.model.save_pretrained(tmp_path)
    assert weights_version(tmp_path) == tiny_policy.version


HUB_COMMIT = "0123456789abcdef" + 24 * "0"


@pytest.fixture
def hub_id(tiny_policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Hub model that is in this machine's cache."""
    cached = tmp_path / "hub" / "models--me--tiny"
    shutil.copytree(tiny_policy_folder, cached / "snapshots" / HUB_COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(HUB_COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return "me/tiny"


@pytest.mark.parametrize("revision", [None, "main", HUB_COMMIT])
def test_a_hub_models_version_names_its_commit(hub_id: str, revision: str | None) -> None:
    assert load_policy(hub_id, revision=revision).version == f"me/tiny@{HUB_COMMIT}"


def test_a_tokenizer_is_saved_the_same_wherever_it_came_from(
    hub_id: str, tiny_policy_folder: Path, tmp_path: Path
) -> None:
    for name, place in (("one", hub_id), ("two", tiny_policy_folder)):
        load_policy(place).tokenizer.save_pretrained(tmp_path / name)
    assert checksum(tmp_path / "one") == checksum(tmp_path / "two")


Weights = dict[str, torch.Tensor]


def edit_weights(folder: Path, edit: Callable[[Weights], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


LAYER = "model.layers.0.mlp.down_proj.weight"
LACKS, OTHER, STRANGE = (
    "the model lacks tensors that its config asks for: ",
    "the model cannot be loaded: ",
    "the model has tensors that its config knows nothing of: ",
)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.pop(LAYER), f"{LACKS}{LAYER}"),
        (lambda weights: weights.pop("model.norm.weight"), f"{LACKS}model.norm.weight"),
        (lambda weights: weights.update({"model.extra": torch.zeros(2)}), f"{STRANGE}model.extra"),
    ],
)
def test_weights_that_are_not_the_configs_are_refused_by_name(
    folder: Path, edit: Callable[[Weights], object], message: str
) -> None:
    """transformers would put random numbers in their place."""
    edit_weights(folder, edit)
    with pytest.raises(AlignError) as caught:
        load_policy(folder)
    assert caught.value.faults[0].what == message
    assert "config.json" in caught.value.faults[0].hint


def test_a_tensor_of_another_shape_is_refused_by_name(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({LAYER: torch.zeros(2, 2)}))
    with pytest.raises(AlignError) as caught:
        load_policy(folder)
    assert "mlp.down_proj.weight" in str(caught.value) or "mismatch" in str(caught.value)


def test_a_config_of_more_or_fewer_layers_than_the_weights_have_is_refused(folder: Path) -> None:
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    edit_config(folder, num_hidden_layers=layers + 1)
    with pytest.raises(AlignError, match=rf"lacks tensors .*model.layers.{layers}.* and \d+ more"):
        load_policy(folder)
    edit_config(folder, num_hidden_layers=layers - 1)
    with pytest.raises(AlignError, match=rf"knows nothing of: model.layers.{layers - 1}."):
        load_policy(folder)


@pytest.mark.parametrize(
    "config",
    [
        "[]",
        "{}",
        "null",
        '"llama"',
        "{",
        '{"model_type": "llama", "hidden_size": "big"}',
        '{"model_type": "bert", "architectures": ["BertModel"]}',
        '{"model_type": "no-such-model"}',
        '{"model_type": ["llama"]}',
    ],
)
def test_a_config_that_is_none_is_told_in_words(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(AlignError) as caught:
        load_policy(folder)
    assert caught.value.faults[0].where == str(folder)
    assert caught.value.faults[0].hint


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["{}", "[]", "{", ""])
def test_other_files_that_hold_nothing_are_told_in_words_or_not_needed(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    try:
        policy = load_policy(folder)
    except AlignError as error:
        assert error.faults[0].where == str(folder)
    else:
        assert policy.tokenizer.eos_token_id is not None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the model cannot be loaded"),
        ("{", "the model cannot be loaded"),
        ("[1]", "the model cannot be loaded"),
        ('{"eos_token_id": "</s>"}', "eos_token_id of its generation_config.json holds '</s>', which is no token's id"),
        ('{"eos_token_id": [1, null, 2.5]}', "eos_token_id of its generation_config.json holds 2.5"),
        ('{"eos_token_id": -1}', "eos_token_id of its generation_config.json holds -1"),
    ],
)
def test_a_generation_config_that_says_no_end_of_a_response_is_refused(
    folder: Path, text: str, what: str, tiny_recipe: Callable[..., Recipe]
) -> None:
    """Passed over in silence, responses would end elsewhere."""
    (folder / "generation_config.json").write_text(text)
    recipe = tiny_recipe(folder.parent, policy__model_name_or_path=str(folder), policy__sft=None)
    for load in (lambda: load_policy(folder), lambda: load_recipe_tokenizer(recipe)):
        with pytest.raises(AlignError, match=re.escape(what)) as caught:
            load()
        assert caught.value.faults[0].where == str(folder)
        assert caught.value.faults[0].hint


def test_a_model_without_a_generation_config_ends_responses_as_its_config_says(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    assert 7 in load_policy(folder).eos_token_ids


def test_an_id_without_an_embedding_is_refused_with_the_remedy(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(AlignError, match=r"the model's \d+ embeddings have no row for: \d+ \('<new pad>'\)") as caught:
        load_policy(folder)
    assert "resize_token_embeddings" in caught.value.faults[0].hint
    with pytest.raises(AlignError, match=r"the model's \d+ embeddings have no row for: \d+ \('<new pad>'\)"):
        load_without_weights(folder)


def test_tied_weights_are_not_missing(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=True)
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight", None))
    policy = load_policy(folder)
    assert policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight


def test_a_model_of_several_parts_has_its_cache_in_the_texts_config() -> None:
    text = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
    for use_cache in (True, False):
        config = Gemma3Config(text_config={**text, "use_cache": use_cache})
        assert not hasattr(config, "use_cache")
        assert uses_cache(SimpleNamespace(config=config)) is use_cache  # type: ignore[arg-type]
