"""Nothing drops out in preference training, whether a layer, a module or the config says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from align_cli.training.dropout import switch_off_dropout

SMALL: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "a module's number": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=16, attention_dropout=0.5)),
    "layers": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    ),
    "layers and a module's number": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**SMALL, intermediate_size=16, attention_dropout=0.5, hidden_dropout=0.5)
    ),
    "layers that are left out": lambda: OPTForCausalLM(
        OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=16, dropout=0.5, attention_dropout=0.5, layerdrop=0.5)
    ),
    "a router's jitter": lambda: MixtralForCausalLM(
        MixtralConfig(
            **SMALL, intermediate_size=16, num_key_value_heads=2, num_local_experts=2, router_jitter_noise=0.5,
            attention_dropout=0.5,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_in_training_mode_a_model_gives_what_it_gives_in_evaluation(make: Callable[[], PreTrainedModel]) -> None:
    torch.manual_seed(0)
    model, tokens = make(), torch.arange(12).view(2, 6)
    expected = model.eval()(tokens).logits
    model.train()
    assert not torch.equal(model(tokens).logits, expected), "without the mend something drops out"
    switch_off_dropout(model)
    for _ in range(3):
        assert torch.equal(model(tokens).logits, expected)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_config_that_is_saved_keeps_what_its_next_training_needs(
    make: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    model = make()
    model.save_pretrained(tmp_path / "before")
    switch_off_dropout(model)
    model.save_pretrained(tmp_path / "after")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", "after"))
    assert before == after
