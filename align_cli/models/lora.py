"""LoRA as peft has it: an adapter in a model's layers, by what the recipe says of it, and an adapter in a folder.

Whether an adapter fits a base is seen by configs and by its own files, before any weights of the base are loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from align_cli.errors import AlignError
from align_cli.models.load import load_tokenizer, shape_of
from align_cli.models.refused import check_adapter, differing_tokens, faults_of_a_model
from align_cli.models.updates import check_can_be_added
from align_cli.recipe.sections.lora import ADAPTER_CONFIG

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedTokenizerBase

    from align_cli.recipe.sections.lora import LoraSection
    from align_cli.recipe.sections.policy import PolicySection

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ALL_LINEAR = "all-linear"
MAGNITUDE, PORTABLE_MAGNITUDE = ".lora_magnitude_vector", ".lora_magnitude_vector.weight"
"""How a tensor of DoRA's is called at its end: by peft, and by whoever else reads adapters, which peft does too."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
TRAINED = "policy"
"""peft's name of the adapter that is trained."""


def lora_config(section: LoraSection) -> LoraConfig:
    """The section as peft has it."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=section.rank,
        lora_alpha=section.alpha,
        target_modules=section.target_modules,
        modules_to_save=section.modules_to_save or None,
        lora_dropout=section.dropout,
        init_lora_weights="gaussian" if section.init == "gaussian" else True,
        use_rslora=section.use_rslora,
        use_dora=section.use_dora,
    )


def with_adapter(model: Any, settings: PolicySection) -> PeftModel:
    """The model with a new adapter in its layers, which it is trained by."""
    from peft import get_peft_model

    assert settings.lora is not None
    start = settings.lora.adapter
    with faults_of_a_model(start or settings.model_name_or_path or ""), without_advice():
        config = read_lora_config(Path(start)) if start else lora_config(settings.lora)
        if config.target_modules == ALL_LINEAR and (experts := _fused_experts(model)):
            _check_fused(settings.lora, experts)
            config.target_parameters = experts
        config.base_model_name_or_path = settings.model_name_or_path
        config.revision = settings.revision
        config.inference_mode = False
        peft = get_peft_model(model, config, adapter_name=TRAINED)
        if settings.lora.between_rounds == "merge":
            check_can_be_added(config, tensors_of(peft, TRAINED), start or "policy.lora.between_rounds")
        return peft


def tensors_of(peft: PeftModel, adapter: str) -> dict[str, torch.Tensor]:
    """An adapter's tensors, by the names that stand in its file."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(peft, adapter_name=adapter, save_embedding_layers=False)


def check_adapter_fits(settings: PolicySection, tokenizer: PreTrainedTokenizerBase) -> None:
    """Whether the base has the layers that `policy.lora` names, and an adapter to start from belongs to it.

    Looks at configs and at the adapter's own files; no weights of the base are loaded.

    Args:
        settings: `policy`, with a `lora` section.
        tokenizer: the base's.

    Raises:
        AlignError: if not.
    """
    assert settings.lora is not None
    peft = _shape_with_adapter(settings)
    if settings.lora.adapter:
        folder = Path(settings.lora.adapter)
        check_adapters_vocabulary(folder, tokenizer, settings)
        base = settings.model_name_or_path or ""
        check_adapter(tensors_of(peft, TRAINED), read_adapter_tensors(folder), str(folder), base)


def check_adapters_vocabulary(adapter: Path, base: PreTrainedTokenizerBase, settings: PolicySection) -> None:
    """Whether the tokenizer that lies beside an adapter, if any does, is the base's but for its template.

    Raises:
        AlignError: if not.
    """
    if any((adapter / name).is_file() for name in TOKENIZER_FILES):
        with faults_of_a_model(str(adapter)):
            own = load_tokenizer(str(adapter), {"trust_remote_code": settings.trust_remote_code})
        if words := differing_tokens(own, base):
            raise AlignError(
                f"the adapter has a tokenizer with another vocabulary than its base, {settings.model_name_or_path}: "
                f"{words}",
                where=str(adapter),
                hint="the policy reads by its base's tokenizer: name the base that this adapter was trained on, with "
                "its resized embeddings and its tokenizer; or, where it needs none of these tokens, give a copy "
                "without tokenizer files",
            )


def num_adapter_weights(settings: PolicySection) -> int:
    """How many numbers the adapter has that `policy.lora` asks for; no weights are loaded.

    Raises:
        AlignError: if the base has no place for it.
    """
    return sum(tensor.numel() for tensor in tensors_of(_shape_with_adapter(settings), TRAINED).values())


def read_lora_config(folder: Path) -> LoraConfig:
    """The settings of an adapter.

    Raises:
        AlignError: if the folder holds no adapter, or one of another kind than LoRA.
    """
    from peft import LoraConfig, PeftConfig

    if not (folder / ADAPTER_CONFIG).is_file():
        raise AlignError(
            f"this folder holds no adapter ({ADAPTER_CONFIG})",
            where=str(folder),
            hint="policy.lora.adapter is a folder that peft's save_pretrained made; a whole model is "
            "policy.model_name_or_path",
        )
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise AlignError(
            f"the adapter is of the kind {config.peft_type}; align trains LoRA adapters", where=str(folder)
        )
    return config


def read_adapter_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """An adapter's file, by peft's names; nothing pickled is read.

    Raises:
        AlignError: if it is missing or cannot be read.
    """
    from safetensors.torch import load_file

    with faults_of_a_model(str(folder)):
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise AlignError(
                f"the adapter has no {ADAPTER_WEIGHTS}",
                where=str(folder),
                hint="a pickled adapter_model.bin can run code: where you trust it, load it with peft and save it anew",
            )
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    return {
        name.removesuffix(".weight") if name.endswith(PORTABLE_MAGNITUDE) else name: tensor
        for name, tensor in tensors.items()
    }


@contextmanager
def without_advice() -> Iterator[None]:
    """Without what peft says of settings that it has chosen itself, or put right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it asks transformers by the older of two names
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)  # for GPT-2's layers
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)  # they match
        yield


def _shape_with_adapter(settings: PolicySection) -> PeftModel:
    shape = shape_of(settings)
    with torch.device("meta"):
        return with_adapter(shape, settings)


def _fused_experts(model: torch.nn.Module) -> list[str]:
    """The names of a mixture's experts where all of a layer's are one tensor, and no layers: peft finds few of them."""
    return sorted(
        {
            name
            for place, module in model.named_modules()
            for name, parameter in module.named_parameters(recurse=False)
            if place.endswith("experts") and parameter.dim() == 3
        }
    )


def _check_fused(section: LoraSection, experts: list[str]) -> None:
    for key in ("dropout", "use_dora"):
        if getattr(section, key):
            raise AlignError(
                f"policy.lora.{key} on a mixture whose experts are one tensor a layer ({', '.join(experts)}), which "
                "peft does not do",
                where=f"policy.lora.{key}",
                hint="leave it out, or name layers in policy.lora.target_modules, as [q_proj, k_proj, v_proj, o_proj]",
            )
