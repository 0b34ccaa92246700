"""Dropout of every kind, and a router's jitter, switched off: in training log-probabilities are the policy's own.

TRL sets `p` of dropout layers to 0. Attention often drops out without a layer: by a number that its module keeps, or
reads from the model's config at each forward pass. Both are set here; the config that a checkpoint is saved with stays
as it is, since dropout is not the policy's but its next training's.
"""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedConfig

WORDS = ("dropout", "drop_rate", "drop_path", "pdrop", "layerdrop", "jitter")
"""What the names of such numbers hold, as `attention_dropout`, `attn_pdrop`, `router_jitter_noise`."""


def switch_off_dropout(model: torch.nn.Module) -> None:
    """Let nothing drop out of a model any more, in training mode either.

    Args:
        model: changed in place, but for its own `config`.
    """
    quiet: dict[int, PreTrainedConfig] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if _is_dropout(name, value):
                setattr(module, name, 0.0)
        config = getattr(module, "config", None)
        if module is not model and isinstance(config, PreTrainedConfig) and _drops_out(config):
            module.config = quiet.setdefault(id(config), _without_dropout(config))


def _is_dropout(name: str, value: object) -> bool:
    return type(value) is float and value > 0 and any(word in name for word in WORDS)


def _drops_out(config: PreTrainedConfig) -> bool:
    return any(_is_dropout(name, value) for name, value in vars(config).items())


def _without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    quiet = copy.copy(config)
    for name, value in vars(config).items():
        if _is_dropout(name, value):
            setattr(quiet, name, 0.0)
    return quiet
