"""A base in 4 or 8 bits under adapters: what is trained, kept and refused. Where bitsandbytes is, on any device."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from align_cli.errors import AlignError
from align_cli.models.adapters import AdaptedModel
from align_cli.models.load import load_policy
from align_cli.models.quantized import check_quantization
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.policy import PolicySection
from align_cli.recipe.sections.quantization import QuantizationSection

IS_THERE = find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not IS_THERE, reason="bitsandbytes is not installed")
TOKENS = pad_batch([[5, 6, 7], [8, 9]], [[10, 11], [12, 13, 14]], 0)
KINDS: list[dict[str, Any]] = [{"bits": 4}, {"bits": 4, "type": "fp4", "double": True}, {"bits": 8}]


def settings(folder: Path, **quantization: Any) -> PolicySection:
    section = QuantizationSection(**quantization) if quantization else None
    return PolicySection(model_name_or_path=str(folder), lora=LoraSection(rank=2), quantization=section, device="cpu")


def logps(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return response_logps(model, TOKENS)


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_base_is_near_what_it_was_and_adapters_alone_are_trained_in_float32(
    kind: dict[str, Any], tiny_policy_folder: Path
) -> None:
    policy = AdaptedModel(settings(tiny_policy_folder, **kind), 0).policy(None)
    whole = load_policy(tiny_policy_folder)
    torch.testing.assert_close(logps(policy.model), logps(whole.model), atol=0.5, rtol=0)
    assert not torch.equal(logps(policy.model), logps(whole.model))
    trained = {name: tensor for name, tensor in policy.model.named_parameters() if tensor.requires_grad}
    assert all("lora" in name for name in trained)
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}


@needs_bitsandbytes
def test_after_sampling_gradients_are_what_they_were(tiny_policy_folder: Path) -> None:
    """bitsandbytes packs weights of 4 bits for inference on some CPUs: nothing could be trained on them afterwards."""

    def gradients(policy: Any) -> torch.Tensor:
        policy.model.zero_grad()
        response_logps(policy.model, TOKENS).sum().backward()
        return torch.cat([one.grad.flatten() for one in policy.model.parameters() if one.grad is not None])

    policy = AdaptedModel(settings(tiny_policy_folder, bits=4), 0).policy(None)
    before = gradients(policy)
    policy.model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False)
    assert torch.equal(gradients(policy), before)


@pytest.mark.skipif(IS_THERE, reason="bitsandbytes is installed")
def test_without_bitsandbytes_it_is_refused_before_anything_is_loaded(tiny_policy_folder: Path) -> None:
    with pytest.raises(AlignError, match="bitsandbytes is not installed") as refused:
        check_quantization(settings(tiny_policy_folder, bits=4))
    (fault,) = refused.value.faults
    assert "align-cli[qlora]" in fault.hint


class TestAModelThatIsQuantisedAlready:
    @pytest.fixture
    def folder(self, tiny_policy_folder: Path, tmp_path: Path) -> Path:
        folder = Path(shutil.copytree(tiny_policy_folder, tmp_path / "model"))
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def test_is_not_trained_itself(self, folder: Path) -> None:
        with pytest.raises(AlignError, match=r"the model is quantised \(bitsandbytes\)") as refused:
            check_quantization(PolicySection(model_name_or_path=str(folder)))
        assert "add policy.lora" in refused.value.faults[0].hint

    def test_takes_adapters(self, folder: Path) -> None:
        check_quantization(settings(folder))

    @needs_bitsandbytes
    def test_is_not_quantised_once_more(self, folder: Path) -> None:
        with pytest.raises(AlignError, match="would do it once more"):
            check_quantization(settings(folder, bits=4))
