"""Log-probabilities and KL without a batch's logits are those of the whole forward pass, whatever the model does."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig, Qwen2Config

from align_cli.methods.logprobs import token_kl, token_logps
from align_cli.models import head, linear_head
from align_cli.models.scoring import pad_batch, reference_scores, score_responses
from align_cli.recipe.sections.policy import PolicySection

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "softcap": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5),
    "scaled up": CohereConfig(**SIZES, logit_scale=7.0),
    "scaled down": GraniteConfig(**SIZES, logits_scaling=3.0),
}
BATCH = pad_batch([[5, 6, 7, 8], [9], [10, 11]], [[12, 13, 14], [15, 16, 17, 18, 19], [20]], 0)
KL_OF = torch.tensor([True, False, True])


def made(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager").eval()
    with torch.no_grad():  # random heads say next to nothing
        model.get_output_embeddings().weight.mul_(20)
    return model


def whole_logits(model: Any) -> torch.Tensor:
    """Of the token before each: what a plain forward pass makes."""
    return model(input_ids=BATCH.input_ids_BT, attention_mask=BATCH.attention_mask_BT).logits[:, :-1]


def by_whole_logits(model: Any, reference: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mask = BATCH.completion_mask_BT[:, 1:]
    logits = whole_logits(model)
    with torch.no_grad():
        anchored = whole_logits(reference)
    return token_logps(logits, BATCH.input_ids_BT[:, 1:]) * mask, token_kl(logits, anchored) * mask * KL_OF[:, None]


def gradients(model: Any, logps: torch.Tensor, kl: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(0.5, 2, logps.numel()).view_as(logps)
    return list(torch.autograd.grad(((logps + 0.7 * kl) * weights).sum(), list(model.parameters())))


@pytest.mark.parametrize("kept", [0, 2**26], ids=["made again", "kept"])
@pytest.mark.parametrize("chunk", [1, 150, 2**25], ids=["a token a chunk", "three tokens a chunk", "one chunk"])
@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_are_the_whole_forward_passes(
    name: str, chunk: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(linear_head, "KEPT_NUMBERS", kept)
    model, reference = made(name), made(name, seed=1)
    assert head.head_of(model).module is model.get_output_embeddings()
    found = score_responses(model, BATCH, reference_scores(reference, BATCH), KL_OF)
    logps, kl = by_whole_logits(model, reference)
    torch.testing.assert_close(found.logps_BC, logps, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.kl_BC, kl, rtol=1e-5, atol=1e-6)
    assert (kl.sum(-1) > 1e-3).tolist() == KL_OF.tolist()
    for ours, theirs in zip(gradients(model, *found[:2]), gradients(model, logps, kl), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_softcap_counts_before_there_are_logits_that_it_changes(dtype: torch.dtype) -> None:
    """A new model's are so near 0 that its cap cannot be seen; those that it learns are not."""
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=30.0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype).eval()
    assert whole_logits(model).abs().max() < 1
    assert head.head_of(model).softcap == 30.0


class Capped(torch.nn.Module):
    """A model whose logits are those of a head and something more that nobody knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.model = made("llama")

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name in ("_modules", "model") else getattr(self.model, name)

    def forward(self, **inputs: Any) -> Any:
        outputs = self.model(**inputs)
        outputs.logits = outputs.logits.clamp(-0.2, 0.2)
        return outputs


def test_a_model_that_does_something_unknown_to_its_logits_is_taken_at_its_logits() -> None:
    model, reference = Capped(), made("llama", seed=1)
    assert head.head_of(model).module is None
    found = score_responses(model, BATCH, reference_scores(reference, BATCH), KL_OF)
    for ours, theirs in zip(found[:2], by_whole_logits(model, reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_no_more_logits_than_a_chunk_has_are_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS", 4 * SIZES["vocab_size"])
    model, reference, rows = made("llama"), made("llama", seed=1), []
    head.head_of(model), head.head_of(reference)
    for each in (model, reference):
        each.lm_head.register_forward_hook(
            lambda module, inputs, output: rows.append(output.shape[:-1].numel()) if output.shape[-1] > 1 else None
        )
    found = score_responses(model, BATCH, reference_scores(reference, BATCH), KL_OF)
    found.kl_BC.sum().backward()
    assert max(rows) == 4
    assert sum(rows) >= 2 * BATCH.completion_mask_BT.sum()


def test_the_model_is_as_it_was_also_after_an_error() -> None:
    model = made("llama")
    head.head_of(model)
    with pytest.raises(IndexError):
        score_responses(model, BATCH._replace(input_ids_BT=BATCH.input_ids_BT + 1000))
    assert "forward" not in model.lm_head.__dict__
    assert whole_logits(model).shape[-1] == SIZES["vocab_size"]


def test_whoever_has_put_a_forward_of_his_own_into_the_head_keeps_it() -> None:
    model = made("llama")
    plain = model.lm_head.forward
    model.lm_head.forward = lambda states: 2 * plain(states)
    theirs = model.lm_head.forward
    found = score_responses(model, BATCH)
    torch.testing.assert_close(found.logps_BC, by_whole_logits(model, model)[0])
    assert model.lm_head.forward is theirs


def test_a_model_that_nobody_needs_any_more_is_let_go() -> None:
    model = made("llama")
    score_responses(model, BATCH)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


class TestAnAdaptedHead:
    """The head itself can be trained with the adapters: policy and reference then have one each, in one module."""

    @pytest.mark.parametrize("lora", [{"target_modules": ["lm_head", "q_proj"]}, {"modules_to_save": ["lm_head"]}])
    def test_each_is_asked_with_its_own(self, lora: dict[str, Any], tmp_path: Path, tiny_policy_folder: Path) -> None:
        from align_cli.models.adapters import AdaptedModel

        settings = PolicySection.model_validate(
            {"model_name_or_path": str(tiny_policy_folder), "lora": {"rank": 2, **lora}}
        )
        adapted = AdaptedModel(settings, 0)
        policy, frozen = adapted.policy(None), adapted.frozen(None)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.05)
        found = score_responses(policy.model, BATCH, reference_scores(frozen.model, BATCH), KL_OF)
        logps, kl = by_whole_logits(policy.model, frozen.model)
        torch.testing.assert_close(found.logps_BC, logps, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.kl_BC, kl, rtol=1e-5, atol=1e-6)
        assert kl.sum() > 0.01
