"""A policy in a folder that transformers loads without align: whole, or an adapter that names its base.

Knows nothing of runs or rounds. `run/export.py` says which policy, and writes the folder in one step.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_cli.models.adapters import AdaptedModel, AdapterPolicy
from align_cli.models.lora import ADAPTER_WEIGHTS, MAGNITUDE, PORTABLE_MAGNITUDE, read_lora_config
from align_cli.models.refused import ADAPTER_CONFIG
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.policy import PolicySection

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOKENIZER_CONFIG = "tokenizer_config.json"
NOT_PORTABLE = ("is_local", "local_files_only")
"""What transformers keeps of the place that a tokenizer was loaded from."""


def load_adapter(folder: Path, settings: PolicySection | None = None) -> AdapterPolicy:
    """The policy that an adapter's folder is, on its base.

    Args:
        folder: one of peft's.
        settings: `policy` of the recipe that it was trained with; None is what the folder says itself.

    Raises:
        AlignError: if the adapter or its base cannot be had, or do not belong together.
    """
    if settings is None:
        config = read_lora_config(folder)
        settings = PolicySection(model_name_or_path=config.base_model_name_or_path, revision=config.revision)
    settings = settings.model_copy(update={"lora": LoraSection(adapter=str(folder))})
    return AdaptedModel(settings, 0).policy(None)


def merged(policy: AdapterPolicy) -> PreTrainedModel:
    """The base with the adapter in its weights, added up in float32, in the type that the base was loaded in.

    The policy is used up. Where the adapter changes one of two weights that the base has tied, they are two afterwards.
    """
    base = policy.adapted.base.model
    dtype = base.dtype
    base.float()
    was_tied = _untie(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of tied weights
        whole: Any = policy.adapted.peft.merge_and_unload(adapter_names=[policy.adapter])
    if was_tied:
        inputs, outputs = whole.get_input_embeddings(), whole.get_output_embeddings()
        is_tied = bool((inputs.weight == outputs.weight).all())
        whole.config.get_text_config().tie_word_embeddings = whole.config.tie_word_embeddings = is_tied
        if is_tied:
            outputs.weight = inputs.weight
    whole.to(dtype)
    return whole


def make_portable(folder: Path, settings: PolicySection, *, merge: bool) -> None:
    """Let a folder with a policy's weights and tokenizer be one that others read.

    Args:
        folder: as the policy wrote it.
        settings: `policy` of its recipe.
        merge: whether an adapter becomes part of its base's weights, all of which the folder then has.
    """
    make_tokenizer_portable(folder)
    if settings.lora is None:
        return
    if not merge:
        make_adapter_portable(folder)
        return
    adapter = load_adapter(folder, settings)
    for file in sorted(folder.glob("adapter_*")):
        file.unlink()
    merged(adapter).save_pretrained(folder)


def make_adapter_portable(folder: Path) -> None:
    """Let an adapter's folder say where its base is, from wherever it is read, and in names that all readers know."""
    from safetensors.torch import load_file, save_file

    path = folder / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    base = config["base_model_name_or_path"]
    config |= {"base_model_name_or_path": absolute_place(base), "inference_mode": True}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if config.get("use_dora"):
        tensors: dict[str, torch.Tensor] = load_file(folder / ADAPTER_WEIGHTS)
        named = {
            name.replace(MAGNITUDE, PORTABLE_MAGNITUDE) if name.endswith(MAGNITUDE) else name: tensor
            for name, tensor in tensors.items()
        }
        save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def make_tokenizer_portable(folder: Path) -> None:
    """Leave out of a tokenizer's files where it was loaded from."""
    path = folder / TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in NOT_PORTABLE}
    path.write_text(json.dumps(kept, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def absolute_place(model: str) -> str:
    """A model's folder by its whole path; a Hub id as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _untie(model: Any) -> bool:
    """Give the head weights of its own where it has those of the embeddings; whether it had."""
    inputs, outputs = (_innermost(layer) for layer in (model.get_input_embeddings(), model.get_output_embeddings()))
    if outputs is None or outputs.weight is not inputs.weight:
        return False
    outputs.weight = type(outputs.weight)(outputs.weight.detach().clone(), requires_grad=False)
    return True


def _innermost(layer: Any) -> Any:
    """The base's own layer below what peft has put around it."""
    while True:
        inner = getattr(layer, "base_layer", None) or getattr(layer, "original_module", None)
        if inner is None:
            return layer
        layer = inner
