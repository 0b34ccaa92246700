"""A base in 4 or 8 bits, quantised by bitsandbytes as it is loaded (QLoRA: Dettmers et al. 2023, arXiv:2305.14314).

It is frozen; adapters in float32 are trained on it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from align_cli.errors import AlignError
from align_cli.recipe.sections.quantization import KEY, QuantizationSection

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

    from align_cli.recipe.sections.policy import PolicySection


def check_quantization(settings: PolicySection) -> None:
    """Whether a base can be quantised here, and whether one that is already is trained by adapters.

    Raises:
        AlignError: if not.
    """
    if settings.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise AlignError(
            "bitsandbytes is not installed, which quantises models",
            where=KEY,
            hint="pip install 'align-cli[qlora]', or leave it out",
        )
    if settings.lora is not None and settings.quantization is None:
        return
    method = _quantised_by(settings)
    if method and settings.lora is None:
        raise AlignError(
            f"the model is quantised ({method}): weights of a few bits cannot be trained themselves",
            where=settings.model_name_or_path or "",
            hint="add policy.lora, whose adapters are trained; or take the model as it was before",
        )
    if method:
        what = f"the model is quantised already ({method}), and {KEY} would do it once more"
        raise AlignError(what, where=KEY, hint="leave it out")


def quantization_config(section: QuantizationSection, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The section as transformers has it.

    Args:
        section: `policy.quantization`.
        dtype: of what is not quantised; 4 bits are multiplied in it, unless the section says otherwise.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if section.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.type,
        bnb_4bit_use_double_quant=section.double,
        bnb_4bit_compute_dtype=getattr(torch, section.compute_dtype) if section.compute_dtype else dtype,
    )


def settle_quantised(model: Any) -> None:
    """Let a quantised base compute in one way in sampling and in training, and be trained under adapters.

    Where a CPU can, bitsandbytes packs weights of 4 bits for inference when they are first used so: training could not
    go on, and the numbers would be others.
    """
    model._hf_peft_config_loaded = True  # transformers' mark of adapters, without which its Trainer refuses such a base
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def adapters_in_float32(model: Any) -> Iterator[None]:
    """While it lasts, a quantised base does not say so: TRL would round its adapters to bfloat16, trained ones too."""
    marks = {name: True for name in ("is_loaded_in_4bit", "is_loaded_in_8bit") if getattr(model, name, False)}
    vars(model).update(dict.fromkeys(marks, False))
    try:
        yield
    finally:
        vars(model).update(marks)


def _quantised_by(settings: PolicySection) -> str | None:
    """How the model's config says that it was quantised; None for one that was not."""
    from transformers import AutoConfig

    from align_cli.models.refused import check_folder, faults_of_a_model

    place = settings.model_name_or_path or ""
    check_folder(place)
    with faults_of_a_model(place):
        config = AutoConfig.from_pretrained(
            place, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    found = getattr(config, "quantization_config", None)
    return None if found is None else str(found.get("quant_method") or "by a method that it does not name")
