from __future__ import annotations

import math

import pytest
import torch

from align_cli.artifacts.records import Preference
from align_cli.labelers.own_labels import own_labels
from align_cli.models.load import Policy

BETA = 0.1
PAIRS = [
    Preference("p", "a", "b", prompt_ids=[3, 4, 5], chosen_ids=[20, 21, 1], rejected_ids=[22, 1]),
    Preference("p", "a", "b", prompt_ids=[6], chosen_ids=[1], rejected_ids=[23, 24, 25, 26, 1]),
    Preference("p", "a", "b", prompt_ids=[7, 8], chosen_ids=[27, 1], rejected_ids=[28, 29, 1]),
]


def sequence_logp(policy: Policy, prompt_ids: list[int], response_ids: list[int]) -> float:
    with torch.no_grad():
        logps = policy.model(input_ids=torch.tensor([prompt_ids + response_ids])).logits[0].double().log_softmax(-1)
    return math.fsum(logps[len(prompt_ids) + i - 1, token].item() for i, token in enumerate(response_ids))


def preference_by_hand(policy: Policy, reference: Policy, pair: Preference) -> float:
    """σ(β(s1 − s2)), s the log-ratio of a whole response to the reference."""
    assert pair.prompt_ids and pair.chosen_ids and pair.rejected_ids
    chosen, rejected = (
        sequence_logp(policy, pair.prompt_ids, ids) - sequence_logp(reference, pair.prompt_ids, ids)
        for ids in (pair.chosen_ids, pair.rejected_ids)
    )
    return 1 / (1 + math.exp(-BETA * (chosen - rejected)))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_policy_prefers_what_its_implicit_reward_prefers(
    batch_size: int, warm_policy: Policy, tiny_policy: Policy
) -> None:
    batches = [PAIRS[start : start + batch_size] for start in range(0, len(PAIRS), batch_size)]
    labels = [label for batch in batches for label in own_labels(warm_policy, tiny_policy, batch, BETA)]
    expected = [preference_by_hand(warm_policy, tiny_policy, pair) for pair in PAIRS]
    assert labels == pytest.approx(expected, abs=1e-5)
    assert max(abs(label - 0.5) for label in labels) > 0.01


def test_a_policy_equal_to_its_reference_prefers_nothing(warm_policy: Policy) -> None:
    assert own_labels(warm_policy, warm_policy, PAIRS, BETA) == [0.5, 0.5, 0.5]
