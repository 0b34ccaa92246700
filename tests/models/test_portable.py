"""What leaves: adapters and merged models say in plain transformers and peft what the policy said in training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from chat_models import make_chat_model
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from align_cli.models.adapters import AdaptedModel, AdapterPolicy
from align_cli.models.portable import load_adapter, make_adapter_portable, make_tokenizer_portable, merged
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.policy import PolicySection

READS_WHOLE_MODULES = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23)
"""Whether transformers alone reads modules that were trained whole beside an adapter: 5.10 leaves them out."""
TOKENS = pad_batch([[5, 6, 7], [8, 9]], [[10, 11], [12, 13, 14]], 0)
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "embeddings saved": {"modules_to_save": ["embed_tokens"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "both saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "norms saved": {"modules_to_save": ["norm"]},
    "head adapted": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings adapted": {"target_modules": ["q_proj", "embed_tokens"]},
    "both adapted": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "head adapted, embeddings saved": {"target_modules": ["lm_head"], "modules_to_save": ["embed_tokens"]},
}


def logps(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return response_logps(model, TOKENS)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base(request: pytest.FixtureRequest, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose head has weights of its own, or those of its embeddings."""
    folder = make_chat_model(tmp_path_factory.mktemp("base") / "model")
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = request.param
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter *= 8  # so that what the adapter adds can be seen
    model.save_pretrained(folder)
    return folder


def trained_policy(base: Path, lora: dict[str, Any]) -> AdapterPolicy:
    """A policy whose adapter is no longer new."""
    section = LoraSection(**{"rank": 2, "alpha": 4, **lora})
    policy = AdaptedModel(PolicySection(model_name_or_path=str(base), lora=section), 0).policy(None)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return policy


def written(policy: AdapterPolicy, folder: Path) -> Path:
    folder.mkdir()
    policy.save_weights(folder)
    policy.tokenizer.save_pretrained(folder)
    make_adapter_portable(folder)
    return folder


@pytest.mark.parametrize("lora", ADAPTERS.values(), ids=ADAPTERS)
def test_whoever_loads_an_adapter_has_the_policy(base: Path, lora: dict[str, Any], tmp_path: Path) -> None:
    policy = trained_policy(base, lora)
    expected = logps(policy.model)
    assert (logps(AutoModelForCausalLM.from_pretrained(base)) - expected).abs().max() > 1e-2
    folder = written(policy, tmp_path / "adapter")
    readers = [AutoPeftModelForCausalLM.from_pretrained(folder, dtype="float32").eval(), load_adapter(folder).model]
    if READS_WHOLE_MODULES or "modules_to_save" not in lora:
        readers.append(AutoModelForCausalLM.from_pretrained(folder, dtype="float32"))
    for model in readers:
        torch.testing.assert_close(logps(model), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lora", ADAPTERS.values(), ids=ADAPTERS)
def test_a_merged_model_is_the_policy_also_where_the_head_was_tied(
    base: Path, lora: dict[str, Any], tmp_path: Path
) -> None:
    policy = trained_policy(base, lora)
    expected = logps(policy.model)
    merged(policy).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logps(model), expected, rtol=0, atol=1e-4)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "lora" in name or "base" in name]
    touches_words = any(
        name in ("embed_tokens", "lm_head") for names in lora.values() if isinstance(names, list) for name in names
    )
    was_tied = AutoConfig.from_pretrained(base).tie_word_embeddings
    assert AutoConfig.from_pretrained(tmp_path).tie_word_embeddings == (was_tied and not touches_words)


def test_a_merged_model_has_the_type_that_the_base_was_loaded_in(base: Path, tmp_path: Path) -> None:
    expected = logps(trained_policy(base, {}).model)
    settings = PolicySection(model_name_or_path=str(base), dtype="bfloat16")
    folder = written(trained_policy(base, {}), tmp_path / "adapter")
    merged(load_adapter(folder, settings)).save_pretrained(tmp_path / "merged")
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    found = logps(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="float32"))
    torch.testing.assert_close(found, expected, rtol=0.1, atol=1.0)


def test_an_adapter_names_its_base_from_anywhere(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(base, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    folder = written(trained_policy(Path("base"), {}), tmp_path / "adapter")
    monkeypatch.chdir("/")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert config["inference_mode"] is True
    assert AutoModelForCausalLM.from_pretrained(folder) is not None


def test_a_hub_id_stays_as_it_is(base: Path, tmp_path: Path) -> None:
    folder = written(trained_policy(base, {}), tmp_path / "adapter")
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "some/model"}))
    make_adapter_portable(folder)
    assert json.loads(config.read_text())["base_model_name_or_path"] == "some/model"


def test_a_tokenizer_says_nothing_of_where_it_was_loaded_from(base: Path, tmp_path: Path) -> None:
    tokenizer = trained_policy(base, {}).tokenizer
    tokenizer.save_pretrained(tmp_path)
    make_tokenizer_portable(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert not {"is_local", "local_files_only"} & config.keys()
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert read("Name a colour.")["input_ids"] == tokenizer("Name a colour.")["input_ids"]
    assert read.chat_template == tokenizer.chat_template
