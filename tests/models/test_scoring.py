from __future__ import annotations

import math
import random

import pytest
import torch

from align_cli.models.load import Policy
from align_cli.models.scoring import TokenBatch, pad_batch, response_logps

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15]]
RESPONSES = [[20, 21, 1], [22, 23, 24, 25, 26, 1], [1]]


def full_log_softmax(policy: Policy, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return policy.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)


def hand_sum(policy: Policy, prompt: list[int], response: list[int]) -> float:
    """log π(y|x), token by token, from a forward pass over this one sequence."""
    logps = full_log_softmax(policy, prompt + response)
    return math.fsum(logps[len(prompt) + i - 1, token].item() for i, token in enumerate(response))


def test_a_batch_is_prompt_response_and_padding_each_under_its_mask() -> None:
    batch = pad_batch([[5, 6, 7], [8]], [[1], [9, 1, 2, 3]], pad_token_id=0)
    assert batch.input_ids_BT.tolist() == [[5, 6, 7, 1, 0], [8, 9, 1, 2, 3]]
    assert batch.attention_mask_BT.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch.completion_mask_BT.tolist() == [[0, 0, 0, 1, 0], [0, 1, 1, 1, 1]]
    assert {tensor.dtype for tensor in batch} == {torch.int64}


def test_padding_is_masked_even_where_the_end_of_sequence_pads() -> None:
    batch = pad_batch([[5], [6]], [[1], [7, 8, 1]], pad_token_id=1)
    assert batch.attention_mask_BT.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.completion_mask_BT.tolist() == [[0, 1, 0, 0], [0, 1, 1, 1]]


def test_prompts_and_responses_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        pad_batch([[5]], [[1], [2]], pad_token_id=0)


@pytest.mark.parametrize(
    ("prompts", "responses"),
    [([[5]], [[1]]), ([[5], [6, 7]], [[8, 1], [1]]), ([[5, 6, 7]], [[1]]), ([[5, 6], [5, 6]], [[], [7, 1]])],
    ids=["shortest", "one-token prompt", "one-token response", "an empty response"],
)
def test_the_shortest_sequences_are_scored_too(
    prompts: list[list[int]], responses: list[list[int]], warm_policy: Policy
) -> None:
    batch = pad_batch(prompts, responses, warm_policy.tokenizer.pad_token_id)
    with torch.no_grad():
        logps = response_logps(warm_policy.model, batch).tolist()
    expected = [hand_sum(warm_policy, *pair) for pair in zip(prompts, responses, strict=True)]
    assert logps == pytest.approx(expected, abs=1e-5)


def test_a_responses_log_probability_is_the_sum_over_its_tokens(warm_policy: Policy) -> None:
    batch = pad_batch(PROMPTS, RESPONSES, warm_policy.tokenizer.pad_token_id)
    with torch.no_grad():
        logps = response_logps(warm_policy.model, batch)
    assert logps.shape == (3,)
    expected = [hand_sum(warm_policy, prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    assert logps.tolist() == pytest.approx(expected, abs=1e-5)


def test_neither_padding_nor_company_changes_a_log_probability(warm_policy: Policy) -> None:
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 60) for _ in range(rng.randint(1, 20))] for _ in range(24)]
    responses = [[rng.randrange(3, 60) for _ in range(rng.randint(1, 20))] for _ in range(24)]
    with torch.no_grad():
        together = response_logps(warm_policy.model, pad_batch(prompts, responses, 0)).tolist()
        alone = [
            response_logps(warm_policy.model, pad_batch([prompt], [response], 0)).item()
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        with_long = response_logps(warm_policy.model, pad_batch([*prompts, [9] * 60], [*responses, [8] * 60], 0))
        padded_otherwise = response_logps(warm_policy.model, pad_batch(prompts, responses, 17)).tolist()
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-5)
    assert with_long[:-1].tolist() == pytest.approx(alone, rel=1e-5, abs=1e-5)
    assert padded_otherwise == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_log_probabilities_have_a_gradient_where_it_is_enabled(warm_policy: Policy) -> None:
    batch = pad_batch(PROMPTS, RESPONSES, 0)
    weight = next(warm_policy.model.parameters())
    (gradient,) = torch.autograd.grad(response_logps(warm_policy.model, batch).sum(), weight)
    assert gradient.abs().sum() > 0
    with torch.no_grad():
        assert not response_logps(warm_policy.model, batch).requires_grad


def test_a_batch_moves_as_one() -> None:
    moved = pad_batch(PROMPTS, RESPONSES, 0).to(torch.device("meta"))
    assert isinstance(moved, TokenBatch)
    assert {tensor.device.type for tensor in moved} == {"meta"}
