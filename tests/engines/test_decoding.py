"""The decoding loop beside transformers' `generate`, on tiny models of several families.

Weights are drawn wide, so that responses differ; one id in twelve ends a response, so that many end early. Where a
family looks back over a window, it is shorter than the sequences.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from small_llama import small_llama
from transformers import AutoConfig, AutoModelForCausalLM

from align_cli.engines import decoding
from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.engines.decoding import decode, keeps_rows_apart
from align_cli.engines.in_process import TransformersEngine, stream
from align_cli.engines.through_generate import generate
from align_cli.models.load import Policy
from align_cli.models.scoring import pad_batch, score_responses

BARE = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=16)
WARPED = SamplingSettings(temperature=0.7, top_k=20, top_p=0.9, max_new_tokens=12)
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": None,
}
WINDOWS = {"head_dim": 8, "sliding_window": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROWS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "gemma2": {**WINDOWS, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**WINDOWS, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {"sliding_window": 8},
    "gpt2": {},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "bloom": {},  # takes no positions
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
"""Families whose cache is rows: transformers' names, and what one has that others have not."""
STATES: dict[str, dict[str, Any]] = {
    "rwkv": {"attention_hidden_size": 32},
    "mamba": {},
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_n_groups": 1, "mamba_d_state": 8},
    "recurrent_gemma": {"lru_width": 32, "head_dim": 8, "block_types": ["recurrent", "attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
}
"""Families that keep a state, some of them in the same cache."""
QUICK = ("llama", "qwen2", "gemma3_text", "gpt2", "mixtral")
IN_FULL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in ROWS]

pytestmark = pytest.mark.usefixtures("one_thread")
MakePolicy = Callable[[str], Policy]


@pytest.fixture(scope="module")
def make(tiny_policy: Policy) -> MakePolicy:
    """`make(family)`: a policy of that family with random weights; the same one each time."""
    made: dict[str, Policy] = {}

    def policy_of(family: str) -> Policy:
        if family not in made:
            size = len(tiny_policy.tokenizer)
            settings = {**SHAPE, "pad_token_id": tiny_policy.tokenizer.pad_token_id, **{**ROWS, **STATES}[family]}
            with torch.random.fork_rng():
                torch.manual_seed(0)
                config = AutoConfig.for_model(family, vocab_size=size, **settings)
                model = AutoModelForCausalLM.from_config(config).eval()
            model.generation_config.eos_token_id = list(range(1, size, 12))
            made[family] = replace(tiny_policy, model=model)
        return made[family]

    return policy_of


@pytest.fixture(scope="module")
def requests(tiny_policy: Policy) -> list[Request]:
    """Three responses to each of seven prompts of 1 to 14 tokens, a prompt's not side by side."""
    rng = random.Random(0)
    prompts = [[rng.randrange(3, len(tiny_policy.tokenizer)) for _ in range(2 * row + 1)] for row in range(7)]
    return [Request(prompt, 100 * row + number) for number in range(3) for row, prompt in enumerate(prompts)]


def tokens(samples: list[Sample]) -> list[list[int]]:
    return [sample.token_ids for sample in samples]


def assert_same(samples: list[Sample], others: list[Sample]) -> None:
    assert tokens(samples) == tokens(others)
    assert [sample.finish_reason for sample in samples] == [sample.finish_reason for sample in others]
    for sample, other in zip(samples, others, strict=True):
        assert sample.logps == pytest.approx(other.logps, abs=1e-5)


@contextmanager
def read_by(module: torch.nn.Module, argument: str | int = 0) -> Iterator[list[torch.Size]]:
    """The shapes of what a module is called with while this lasts."""
    shapes: list[torch.Size] = []

    def note(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = positional[argument] if isinstance(argument, int) else named[argument]
        shapes.append(given.shape)

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        handle.remove()


@pytest.mark.parametrize("settings", [BARE, WARPED], ids=["bare", "warped"])
@pytest.mark.parametrize("family", IN_FULL)
def test_the_same_tokens_as_through_generate(
    family: str, settings: SamplingSettings, make: MakePolicy, requests: list[Request]
) -> None:
    policy = make(family)
    assert keeps_rows_apart(policy.model)
    samples = decode(policy, requests, settings)
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}
    assert len({tuple(sample.token_ids) for sample in samples}) > len(requests) // 2
    assert_same(samples, generate(policy, requests, settings))


@pytest.mark.parametrize("family", IN_FULL)
def test_log_probabilities_are_those_that_training_computes(
    family: str, make: MakePolicy, requests: list[Request]
) -> None:
    policy = make(family)
    samples = decode(policy, requests, BARE)
    batch = pad_batch([request.prompt_ids for request in requests], tokens(samples), 0)
    with torch.no_grad():
        scores = score_responses(policy.model, batch, plain=True)
    for sample, logps_C, mask_C in zip(samples, scores.logps_BC, scores.mask_BC, strict=True):
        assert sample.logps == pytest.approx(logps_C[mask_C.bool()].tolist(), abs=1e-5)


@pytest.mark.parametrize("family", IN_FULL)
def test_the_same_tokens_whatever_the_batch_and_the_order(
    family: str, make: MakePolicy, requests: list[Request]
) -> None:
    policy = make(family)
    whole = decode(policy, requests, BARE)
    assert_same(decode(policy, requests[::-1], BARE)[::-1], whole)
    assert_same([*decode(policy, requests[:5], BARE), *decode(policy, requests[5:], BARE)], whole)
    assert_same([sample for request in requests for sample in decode(policy, [request], BARE)], whole)


@pytest.mark.parametrize("family", IN_FULL)
def test_sequences_that_leave_change_nothing(
    family: str, make: MakePolicy, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make(family)
    monkeypatch.setattr(decoding, "ENDED_PART", 1.0)
    with read_by(policy.model, "input_ids") as shapes:
        none_left = decode(policy, requests, BARE)
    assert {rows for rows, _ in shapes[1:]} == {len(requests)}
    monkeypatch.setattr(decoding, "ENDED_PART", 0.0)
    with read_by(policy.model, "input_ids") as shapes:
        assert_same(decode(policy, requests, BARE), none_left)
    going = [sum(len(sample.token_ids) > number for sample in none_left) for number in range(1, BARE.max_new_tokens)]
    assert [rows for rows, _ in shapes[1:]] == going, "only those that go on are read"


def test_a_prompt_is_read_once_for_all_of_its_responses(make: MakePolicy, requests: list[Request]) -> None:
    policy = make("llama")
    with read_by(policy.model, "input_ids") as shapes, read_by(policy.model.lm_head) as states:
        decode(policy, requests, BARE)
    assert shapes[0] == (7, 13) and shapes[1][1] == 1
    assert {length for _, length, _ in states} == {1}, "no logits are made within a prompt"


def test_prompts_that_are_equal_stand_in_one_batch(make: MakePolicy, requests: list[Request]) -> None:
    batches = list(TransformersEngine(3).generate(make("llama"), requests, BARE))
    assert [{tuple(requests[index].prompt_ids) for index, _ in batch} for batch in batches] == [
        {tuple(request.prompt_ids)} for request in requests[6::-1]
    ]


def test_responses_have_the_models_own_frequencies() -> None:
    """Of every response of up to three tokens, against its probability by one pass over it."""
    size, eos, number = 5, 2, 4000
    model = small_llama(0, size, pad_token_id=0, eos_token_id=eos)
    policy = Policy(model, _NoTokenizer(), "of random weights")  # type: ignore[arg-type]
    assert keeps_rows_apart(model)
    prompts = [[1, 3], [4, 1, 1, 3]]
    requests = [Request(prompt, seed) for seed in range(number) for prompt in prompts]
    samples = decode(policy, requests, BARE._replace(max_new_tokens=3))
    for row, prompt in enumerate(prompts):
        counts = Counter(tuple(sample.token_ids) for sample in samples[row :: len(prompts)])
        expected = {ids: number * _probability(model, prompt, ids) for ids in _responses(size, eos, 3)}
        assert sum(expected.values()) == pytest.approx(number, rel=1e-5) and counts.keys() <= expected.keys()
        common = [ids for ids, times in expected.items() if times >= 5]
        cells = [(counts[ids], expected[ids]) for ids in common]
        cells.append((number - sum(seen for seen, _ in cells), number - sum(times for _, times in cells)))
        chi_square, freedom = sum((seen - times) ** 2 / times for seen, times in cells), len(cells) - 1
        assert freedom > 10 and chi_square < freedom + 4 * math.sqrt(2 * freedom)


class _NoTokenizer:
    eos_token_id, pad_token_id = 2, 0


def _responses(size: int, eos: int, longest: int) -> list[tuple[int, ...]]:
    others = [token for token in range(size) if token != eos]
    ended = [(*ids, eos) for length in range(longest) for ids in product(others, repeat=length)]
    return ended + list(product(others, repeat=longest))


def _probability(model: Any, prompt: list[int], ids: tuple[int, ...]) -> float:
    with torch.no_grad():
        logps_CV = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return math.exp(logps_CV.gather(-1, torch.tensor(ids)[:, None]).sum())


@pytest.mark.parametrize("family", STATES)
def test_a_model_that_keeps_a_state_is_sampled_through_generate(
    family: str, make: MakePolicy, requests: list[Request]
) -> None:
    policy, heard = make(family), list[list[int]]()
    assert not keeps_rows_apart(policy.model)
    sample = stream(policy, requests[9], BARE, lambda ids: heard.append(list(ids)))
    assert_same([sample], generate(policy, [requests[9]], BARE))
    assert heard == [sample.token_ids[: number + 1] for number in range(len(sample.token_ids))]
    answers = dict(answer for batch in TransformersEngine(4).generate(policy, requests, BARE) for answer in batch)
    assert answers[9].token_ids == sample.token_ids


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_in_half_precision_is_no_state(dtype: torch.dtype, make: MakePolicy, requests: list[Request]) -> None:
    policy = make("qwen2")
    config = policy.model.config
    model = AutoModelForCausalLM.from_config(config).eval().to(dtype)
    model.load_state_dict(policy.model.state_dict())
    assert keeps_rows_apart(model)


def test_memory_that_runs_out_while_a_model_is_tried_says_nothing_of_it(
    make: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_config(make("llama").model.config).eval()

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(model, "forward", fail)
        keeps_rows_apart(model)
    assert keeps_rows_apart(model)


def test_every_token_is_heard_when_it_is_drawn(make: MakePolicy, requests: list[Request]) -> None:
    heard: list[list[int]] = []
    sample = stream(make("llama"), requests[3], BARE, lambda ids: heard.append(list(ids)))
    assert heard == [sample.token_ids[: number + 1] for number in range(len(sample.token_ids))]
    assert_same([sample], decode(make("llama"), [requests[3]], BARE))
