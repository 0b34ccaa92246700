"""The smallest model that can be enumerated: one layer, random weights, no beginning of a text."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def small_llama(seed: int, vocab_size: int, *, pad_token_id: int, eos_token_id: int) -> LlamaForCausalLM:
    """In evaluation mode, float32; contexts of up to eight tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        initializer_range=0.8,
        pad_token_id=pad_token_id,
        eos_token_id=eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()
