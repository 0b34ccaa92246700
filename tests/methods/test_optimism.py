"""The optimism term: hand-worked values and gradients; its expectation stands in `test_enumeration.py`."""

from __future__ import annotations

import pytest
import torch

from align_cli.methods.optimism import optimism_term


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


# From the reference: the rejected response; the chosen; both; none.
FROM_REFERENCE = torch.tensor([[False, True], [True, False], [True, True], [False, False]])


def test_it_is_the_mean_log_ratio_of_what_the_reference_sampled() -> None:
    found = optimism_term(of(1.0, 2.0, 3.0, 4.0), of(-5.0, -6.0, -7.0, -8.0), FROM_REFERENCE)
    assert found.tolist() == [-5.0, 2.0, (3.0 - 7.0) / 2, 0.0]


def test_its_gradient_reaches_those_responses_alone() -> None:
    chosen, rejected = of(1.0, 2.0, 3.0, 4.0), of(-5.0, -6.0, -7.0, -8.0)
    optimism_term(chosen, rejected, FROM_REFERENCE).sum().backward()
    assert chosen.grad is not None and chosen.grad.tolist() == [0.0, 1.0, 0.5, 0.0]
    assert rejected.grad is not None and rejected.grad.tolist() == [1.0, 0.0, 0.5, 0.0]


def test_it_has_the_gradient_of_finite_differences() -> None:
    ratios = of(0.3, -2.0, 1.5, 0.0), of(1.0, 0.2, -0.7, 5.0)
    assert torch.autograd.gradcheck(lambda one, two: optimism_term(one, two, FROM_REFERENCE), ratios)


def test_descent_makes_what_the_reference_says_less_likely() -> None:
    chosen = of(0.0)
    (gradient,) = torch.autograd.grad(optimism_term(chosen, of(0.0), torch.tensor([[True, False]])).sum(), chosen)
    assert gradient.item() == pytest.approx(1.0)
