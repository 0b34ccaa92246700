"""What a model says of responses that were, or were not, sampled from it."""

from __future__ import annotations

import math
from functools import wraps
from typing import Any

import pytest
import torch

from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.engines.drawing import warpers
from align_cli.engines.in_process import TransformersEngine
from align_cli.models.load import Policy
from align_cli.models.sampled import SampledTokens, Warp, sampled_tokens
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.playground import world

WHOLE = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=12)
WARPED = SamplingSettings(temperature=0.7, top_k=6, top_p=0.9, max_new_tokens=12)


def warp_of(settings: SamplingSettings) -> Warp:
    def warp(logits_nV: torch.Tensor) -> torch.Tensor:
        for warper in warpers(settings):
            logits_nV = warper(logits_nV, logits_nV)
        return logits_nV

    return warp


def drawn(policy: Policy, settings: SamplingSettings, number: int = 24) -> tuple[list[list[int]], list[Sample]]:
    ids = [policy.tokenizer(row["prompt"])["input_ids"] for row in world.prompts(0, number)]
    requests = [Request(one, 977 * at) for at, one in enumerate(ids)]
    found = dict(one for batch in TransformersEngine(8).generate(policy, requests, settings) for one in batch)
    return ids, [found[at] for at in range(number)]


def read(
    policy: Policy, settings: SamplingSettings, asked: SamplingSettings, batch_size: int = 8
) -> list[SampledTokens]:
    prompts, samples = drawn(policy, settings)
    return sampled_tokens(policy, prompts, [one.token_ids for one in samples], warp_of(asked), batch_size)


def surprise_in_deviations(found: list[SampledTokens]) -> float:
    off = sum(-logp - entropy for one in found for logp, entropy in zip(one.logps, one.entropies, strict=True))
    return off / math.sqrt(sum(sum(one.variances) for one in found))


@pytest.mark.parametrize("settings", [WHOLE, WARPED], ids=["whole", "warped"])
def test_log_probabilities_are_those_that_the_engine_drew_with(warm_policy: Policy, settings: SamplingSettings) -> None:
    prompts, samples = drawn(warm_policy, settings)
    found = sampled_tokens(warm_policy, prompts, [one.token_ids for one in samples], warp_of(settings), 8)
    for one, sample in zip(found, samples, strict=True):
        assert one.logps == pytest.approx(sample.logps, abs=1e-4)
    whole = sampled_tokens(warm_policy, prompts, [one.token_ids for one in samples], warp_of(WHOLE), 8)
    for one, other in zip(found, whole, strict=True):
        assert one.policy_logps == pytest.approx(other.logps, abs=1e-4)


def test_entropy_variance_and_the_likeliest_token_are_those_of_the_distribution(warm_policy: Policy) -> None:
    (prompt,), response = [warm_policy.tokenizer(row["prompt"])["input_ids"] for row in world.prompts(0, 1)], [5, 9]
    (found,) = sampled_tokens(warm_policy, [prompt], [response], warp_of(WARPED), 1)
    with torch.no_grad():
        logits_TV = warm_policy.model(torch.tensor([[*prompt, *response]])).logits[0].double()
    for place, token in enumerate(response):
        logq_V = warp_of(WARPED)(logits_TV[None, len(prompt) - 1 + place]).log_softmax(-1)[0]
        kept = logq_V[logq_V > -math.inf]
        entropy = float(-(kept.exp() * kept).sum())
        assert found.entropies[place] == pytest.approx(entropy, abs=1e-5)
        assert found.variances[place] == pytest.approx(float((kept.exp() * (-kept - entropy) ** 2).sum()), abs=1e-5)
        assert found.largest[place] == pytest.approx(float(kept.max()), abs=1e-5)
        assert found.logps[place] == pytest.approx(float(logq_V[token]), abs=1e-5)


@pytest.mark.parametrize("settings", [WHOLE, WARPED], ids=["whole", "warped"])
def test_a_models_own_draws_surprise_it_as_often_as_they_should(
    warm_policy: Policy, settings: SamplingSettings
) -> None:
    assert abs(surprise_in_deviations(read(warm_policy, settings, settings))) < 4


@pytest.mark.parametrize(
    ("changes", "sign"),
    [({"temperature": 0.5}, -1), ({"top_k": 1}, -1), ({"top_p": 0.4}, -1), ({"temperature": 3.0}, 1)],
)
def test_draws_by_other_settings_do_not(warm_policy: Policy, changes: dict[str, float], sign: int) -> None:
    settings = WHOLE._replace(**changes)
    assert sign * surprise_in_deviations(read(warm_policy, settings, WHOLE)) > 6


def test_logits_are_made_once(warm_policy: Policy) -> None:
    prompts, samples = drawn(warm_policy, WHOLE, 6)
    responses = [one.token_ids for one in samples]
    sampled_tokens(warm_policy, prompts, responses, warp_of(WHOLE), 4)  # what is tried once a model is tried by now
    rows: list[int] = []
    hook = warm_policy.model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: rows.append(output.shape[:-1].numel()) if output.shape[-1] > 1 else None
    )
    try:
        sampled_tokens(warm_policy, prompts, responses, warp_of(WHOLE), 4)
    finally:
        hook.remove()
    assert sum(rows) == sum(map(len, responses))


def test_where_the_forward_pass_is_in_mixed_precision_log_probabilities_are_those_that_training_computes(
    warm_policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, samples = drawn(warm_policy, WHOLE, 6)
    responses, forward = [one.token_ids for one in samples], warm_policy.model.forward

    @wraps(forward)
    def mixed(*args: Any, **kwargs: Any) -> Any:  # as accelerate wraps it
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args, **kwargs)

    monkeypatch.setitem(warm_policy.model.__dict__, "forward", mixed)
    found = sampled_tokens(warm_policy, prompts, responses, warp_of(WHOLE), 6)
    with torch.no_grad():
        wanted = response_logps(warm_policy.model, pad_batch(prompts, responses, warm_policy.tokenizer.pad_token_id))
    assert [sum(one.policy_logps) for one in found] == pytest.approx(wanted.tolist(), abs=1e-4)


def test_the_size_of_a_forward_pass_changes_nothing(warm_policy: Policy) -> None:
    few, many = read(warm_policy, WHOLE, WHOLE, 1), read(warm_policy, WHOLE, WHOLE, 24)
    for one, other in zip(few, many, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-4)
        assert one.entropies == pytest.approx(other.entropies, abs=1e-4)
