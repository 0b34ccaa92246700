"""KL as a loss: what one response's gradient is made of; that its mean is right stands in `test_enumeration.py`."""

from __future__ import annotations

import pytest
import torch

from align_cli.methods.kl import sequence_kl


def gradients(
    gradient: str, mask: list[float], baselines: torch.Tensor | float = 0.0
) -> tuple[float, list[float], list[float]]:
    """The value on a response whose tokens have KL 5, 2 and 1; its gradients to these, and to the log-probabilities."""
    token_kl = torch.tensor([[5.0, 2.0, 1.0]], requires_grad=True)
    logps = torch.tensor([[-0.5, -1.5, -3.0]], requires_grad=True)
    value = sequence_kl(token_kl, logps, torch.tensor([mask]), gradient, baselines)
    assert value.shape == (1,)
    to_kl, to_logps = torch.autograd.grad(value.sum(), (token_kl, logps), allow_unused=True, materialize_grads=True)
    return value.item(), to_kl[0].tolist(), to_logps[0].tolist()


def test_a_token_is_made_less_likely_by_the_kl_behind_it_and_not_by_its_own() -> None:
    """KL_t is an average over the token at t: with u ≥ t the mean would be the same, and only the noise more."""
    _, _, to_logps = gradients("full", [1.0, 1.0, 1.0])
    assert to_logps == [2.0 + 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("gradient", "mask", "value", "to_logps"),
    [
        ("full", [1.0, 1.0, 1.0], 8.0, [3.0 - 2.0, 1.0 - 0.5, 0.0 - 4.0]),
        ("full", [1.0, 1.0, 0.0], 7.0, [2.0 - 2.0, 0.0 - 0.5, 0.0]),
        ("pathwise", [1.0, 1.0, 1.0], 8.0, [0.0, 0.0, 0.0]),
    ],
)
def test_a_baseline_is_taken_off_what_is_behind_a_token(
    gradient: str, mask: list[float], value: float, to_logps: list[float]
) -> None:
    """Added in its place it would leave the mean as it is too, and only the noise be more."""
    assert gradients(gradient, mask, torch.tensor([[2.0, 0.5, 4.0]])) == (value, mask, to_logps)


def test_pathwise_holds_the_tokens_fixed() -> None:
    _, _, to_logps = gradients("pathwise", [1.0, 1.0, 1.0])
    assert to_logps == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("gradient", ["pathwise", "full"])
def test_the_kl_of_every_token_has_weight_one_either_way(gradient: str) -> None:
    value, to_kl, _ = gradients(gradient, [1.0, 1.0, 1.0])
    assert (value, to_kl) == (8.0, [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("mask", "value", "to_logps"),
    [
        ([1.0, 1.0, 0.0], 7.0, [2.0, 0.0, 0.0]),
        ([0.0, 1.0, 1.0], 3.0, [0.0, 1.0, 0.0]),
        ([0.0, 1.0, 0.0], 2.0, [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], 0.0, [0.0, 0.0, 0.0]),
    ],
)
def test_what_is_no_response_neither_counts_nor_moves(mask: list[float], value: float, to_logps: list[float]) -> None:
    assert gradients("full", mask) == (value, mask, to_logps)
