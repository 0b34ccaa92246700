"""Log-probabilities and KL from logits."""

from __future__ import annotations

import math

import pytest
import torch

from align_cli.methods.logprobs import sequence_logps, token_kl, token_logps


def test_token_logps_are_the_log_softmax_at_the_target() -> None:
    logits = torch.tensor([[[math.log(1.0), math.log(3.0)], [math.log(2.0), math.log(2.0)]]])
    logps = token_logps(logits, torch.tensor([[1, 0]]))
    assert logps.tolist() == [pytest.approx([math.log(0.75), math.log(0.5)])]


def test_token_logps_take_the_softmax_in_float32_where_logits_are_half() -> None:
    logits = torch.randn(1, 3, 50, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    targets = torch.tensor([[1, 2, 3]])
    wide = torch.log_softmax(logits.float(), -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    logps = token_logps(logits, targets)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, wide)


def test_token_logps_keep_double_precision() -> None:
    logits = torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 4]])
    assert torch.autograd.gradcheck(lambda x: token_logps(x, targets), (logits,))


def test_sequence_logps_sum_the_response_and_nothing_else() -> None:
    logps = torch.tensor([[-9.0, -1.0, -2.0, -9.0], [-1.0, -1.0, -1.0, -1.0]])
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]])
    assert sequence_logps(logps, mask).tolist() == [-3.0, 0.0]


def test_token_kl_has_its_hand_worked_value() -> None:
    policy, reference = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    kl = token_kl(policy.log().view(1, 1, 3), reference.log().view(1, 1, 3))
    assert kl.item() == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))


def test_token_kl_of_a_policy_with_itself_is_zero_and_else_positive() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, others = (torch.randn(4, 3, 11, generator=generator) for _ in range(2))
    assert token_kl(logits, logits).abs().max().item() < 1e-6
    assert (token_kl(logits, others) > 0).all()


@pytest.mark.parametrize("half", ["policy", "reference", "both"])
def test_token_kl_is_taken_in_float32_where_logits_are_half(half: str) -> None:
    """In bfloat16 it would be off by some hundredths."""
    generator = torch.Generator().manual_seed(3)
    logits, others = (torch.randn(2, 3, 500, generator=generator).bfloat16() for _ in range(2))
    policy = logits if half != "reference" else logits.float()
    reference = others if half != "policy" else others.float()
    found = token_kl(policy, reference)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, token_kl(logits.float(), others.float()))


def test_token_kl_keeps_double_precision_and_makes_none() -> None:
    logits = torch.zeros(1, 1, 2, dtype=torch.float64)
    assert token_kl(logits, logits).dtype == torch.float64
    assert token_kl(logits.float(), logits).dtype == torch.float32


def test_summed_token_kl_is_the_sequence_kl_in_expectation() -> None:
    """All sequences of two tokens over a vocabulary of three, weighted by their probability."""
    generator = torch.Generator().manual_seed(2)
    first, reference_first = torch.randn(3, generator=generator), torch.randn(3, generator=generator)
    second, reference_second = torch.randn(3, 3, generator=generator), torch.randn(3, 3, generator=generator)
    exact, estimated = 0.0, 0.0
    for one in range(3):
        for two in range(3):
            logp = (first.log_softmax(-1)[one] + second[one].log_softmax(-1)[two]).item()
            reference = (reference_first.log_softmax(-1)[one] + reference_second[one].log_softmax(-1)[two]).item()
            exact += math.exp(logp) * (logp - reference)
            kl = token_kl(
                torch.stack([first, second[one]]).unsqueeze(0),
                torch.stack([reference_first, reference_second[one]]).unsqueeze(0),
            )
            estimated += math.exp(logp) * kl.sum().item()
    assert estimated == pytest.approx(exact, rel=1e-5)
