"""A prompt that is read once for all of its responses: what a model says of each is what it says of it alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from align_cli.models.layout import LENGTHS, Room, each_alone, lay_out, sequences_of, shares_prompts
from align_cli.models.scoring import TokenBatch, pad_batch, reference_scores, score_responses

SHAPE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARING: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 100, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"head_dim": 8, "sliding_window": 100, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {"sliding_window": 100},
    "phi3": {},
    "phi": {},
    "gpt2": {},
    "gpt_neox": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "gptj": {"rotary_dim": 8},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {},
    "olmo": {"clip_qkv": 1.0},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "stablelm": {},
    "starcoder2": {},
    "cohere": {},
    "granite": {},
    "smollm3": {},
}
"""transformers' names of those that keep to positions and a mask, and what a family has that others have not."""
ALONE: dict[str, dict[str, Any]] = {
    "bloom": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "falcon": {"alibi": True},
    "mamba": {},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "rwkv": {"attention_hidden_size": 32},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {"lru_width": 32},
}
"""Those that look at distances in a row, or keep a state."""
PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9, 10], [11, 12], [13]]
RESPONSES = [[20, 21, 22, 1], [23, 24, 25, 1], [26, 1], [20, 21, 22, 1], [27, 28], [29, 30]]
KL_OF = torch.tensor([False, True, True, True, False, True])


def made(family: str, seed: int = 0, attention: str | None = None, **more: Any) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**SHAPE, **{**SHARING, **ALONE}.get(family, {}), **more})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def some(width: int | None = None) -> TokenBatch:
    """Six sequences of three prompts, of which two are the same."""
    return pad_batch(PROMPTS[:width], RESPONSES[:width], 0)


def values_and_gradients(model: Any, reference: Any, *, plain: bool) -> list[torch.Tensor]:
    model.zero_grad()
    batch = some()
    found = score_responses(model, batch, reference_scores(reference, batch, plain=plain), KL_OF, plain=plain)
    weights = torch.linspace(0.5, 2, found.logps_BC.numel()).view_as(found.logps_BC)
    loss = ((found.logps_BC + 0.7 * found.kl_BC) * weights).sum()
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [found.logps_BC, found.kl_BC, *gradients]


@pytest.mark.parametrize("family", SHARING)
def test_values_and_gradients_are_those_of_each_sequence_alone(family: str) -> None:
    extra = {"alibi": False} if family == "falcon" else {}
    model, reference = made(family, **extra), made(family, seed=1, **extra)
    layout = lay_out(model, some())
    assert layout.tokens.inputs["input_ids"].shape == (3, 12)
    shared, alone = (values_and_gradients(model, reference, plain=plain) for plain in (False, True))
    assert len(shared) > 2
    for ours, theirs in zip(shared, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("family", ALONE)
def test_a_model_that_does_not_keep_to_positions_and_a_mask_reads_each_sequence_alone(family: str) -> None:
    model = made(family)
    assert not shares_prompts(model)
    assert lay_out(model, some()).of_N is None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_shares_prompts_with_either_attention(attention: str) -> None:
    model = made("llama", attention=attention)
    assert shares_prompts(model)
    shared, alone = (values_and_gradients(model, made("llama", seed=1), plain=plain) for plain in (False, True))
    for ours, theirs in zip(shared, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


def test_an_attention_that_takes_no_mask_of_ours_shares_nothing() -> None:
    model = made("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert not shares_prompts(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_shares_prompts_too(dtype: torch.dtype) -> None:
    model = made("llama").to(dtype)
    assert shares_prompts(model)
    with torch.no_grad():
        shared, alone = (score_responses(model, some(), plain=plain).logps_BC for plain in (False, True))
    torch.testing.assert_close(shared, alone, rtol=0.02, atol=0.1)
    assert shares_prompts(made("gpt2").to(dtype))
    assert not shares_prompts(made("bloom").to(dtype))
    assert not shares_prompts(made("lfm2").to(dtype))


def test_each_token_of_a_prompt_and_of_a_response_is_read_once() -> None:
    layout = lay_out(made("llama"), some())
    ids = layout.tokens.inputs["input_ids"]
    assert ids.tolist() == [
        [5, 6, 7, 8, 9, 10, 20, 21, 22, 1, 26, 1],
        [11, 12, 23, 24, 25, 1, 27, 28, 0, 0, 0, 0],
        [13, 29, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert layout.tokens.inputs["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 6, 7]
    assert layout.tokens.targets_N.tolist() == [20, 21, 22, 1, 26, 1, 23, 24, 25, 1, 27, 28, 29, 30]
    assert layout.tokens.before_N.tolist() == [5, 6, 7, 8, 5, 10, 13, 14, 15, 16, 13, 18, 24, 25]
    assert layout.of_N is not None
    assert layout.tokens.targets_N[layout.of_N].tolist() == [token for response in RESPONSES for token in response]


def test_a_response_sees_its_prompt_and_itself() -> None:
    sees = (lay_out(made("llama"), some()).tokens.inputs["attention_mask"][0, 0] == 0).long()
    assert sees[9].tolist() == [1] * 10 + [0, 0]
    assert sees[11].tolist() == [1] * 6 + [0] * 4 + [1, 1]
    assert sees[3].tolist() == [1] * 4 + [0] * 8


def test_nothing_is_shared_where_that_would_cost_more() -> None:
    model = made("llama")
    apart = pad_batch([[5, 6], [7, 8]], [[20, 21], [22, 23]], 0)
    long = pad_batch([[5]] * 3, [[20] * 30, [21] * 30, [22] * 30], 0)  # three times as much to look at
    for batch in (apart, long, pad_batch([[5, 6]], [[20]], 0)):
        assert lay_out(model, batch).of_N is None


@pytest.mark.parametrize("name", ["max_position_embeddings", "sliding_window"])
def test_a_row_that_is_longer_than_a_model_looks_is_read_alone(name: str) -> None:
    assert name in LENGTHS
    batch = pad_batch([[5] * 30] * 2, [[6] * 9, [7] * 9], 0)
    assert lay_out(made("mistral", **{name: 48}), batch).of_N is not None
    assert lay_out(made("mistral", **{name: 47}), batch).of_N is None


def test_an_empty_response_has_no_token_in_a_row() -> None:
    model = made("llama")
    batch = pad_batch([[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 8]], [[20, 21], [], [22]], 0)
    assert lay_out(model, batch).of_N is not None
    with torch.no_grad():
        shared, alone = (score_responses(model, batch, plain=plain).logps_BC for plain in (False, True))
    torch.testing.assert_close(shared, alone)


def test_what_stands_for_a_model_and_has_no_config_reads_each_sequence_alone() -> None:
    assert not shares_prompts(torch.nn.Linear(2, 2))


def test_a_model_is_tried_once_and_stays_in_training() -> None:
    model = made("llama").train()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert shares_prompts(model)
    assert model.training
    tried = len(calls)
    assert shares_prompts(model)
    assert len(calls) == tried > 0


def test_the_plain_layout_is_the_batch_itself() -> None:
    batch = some(2)
    tokens = each_alone(batch).tokens
    assert tokens.inputs["input_ids"] is batch.input_ids_BT
    assert tokens.before_N.tolist() == [5, 6, 7, 8, 11, 12, 13, 14]
    assert tokens.targets_N.tolist() == [20, 21, 22, 1, 23, 24, 25, 1]


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("longest", [4, 30, 100])
def test_room_counts_the_places_that_a_batch_will_have(family: str, longest: int) -> None:
    model, generator = made(family), random.Random(longest)

    def tokens(most: int) -> list[int]:
        return [generator.randint(1, 59) for _ in range(generator.randint(1, most))]

    prompts, found = [tokens(longest) for _ in range(3)], set[bool]()
    for most in (2, 12, 60):
        room, batch = Room(model), list[tuple[list[int], list[int]]]()
        for _ in range(6):
            joining = [(generator.choice(prompts), tokens(most)) for _ in range(2)]
            batch += [*joining, joining[0]]
            padded = pad_batch(*map(list, zip(*batch, strict=True)), 0)
            laid_out = lay_out(model, padded).tokens.inputs["input_ids"]
            assert room.add(list(sequences_of(padded))[-3:]) == laid_out.numel()
            found.add(len(laid_out) < len(batch))
    assert found == ({False} if family == "bloom" else {True, False})
