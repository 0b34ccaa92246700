"""A linear reward is the minimum of TRL's loss: by hand, by scikit-learn, and by its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from align_cli.methods.linear_reward import fit_linear_reward, linear_reward_loss

N, H = 40, 5


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, N, H, generator=generator, dtype=torch.float64).unbind()
    return chosen + torch.tensor([0.7, 0, -0.3, 0, 0]), rejected


def ones(*values: float) -> torch.Tensor:
    return torch.tensor(values or [1.0] * N, dtype=torch.float64)


def zeros() -> torch.Tensor:
    return torch.zeros(N, dtype=torch.float64)


def test_the_loss_by_hand() -> None:
    """w·φ is ln 3 and 0: h = ln 3 − m; at m = 0, q = 1: ln 4/3; the centring term adds c (ln 3)²."""
    weight, chosen, rejected = ones(math.log(3)), ones(1.0)[None], ones(0.0)[None]

    def loss(label: float, margin: float, centering: float = 0.0) -> float:
        return float(linear_reward_loss(weight, chosen, rejected, ones(label), ones(margin), centering))

    assert loss(1.0, 0.0) == pytest.approx(math.log(4 / 3))
    assert loss(1.0, math.log(3)) == pytest.approx(math.log(2))
    assert loss(0.75, 0.0) == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert loss(1.0, 0.0, 0.5) == pytest.approx(math.log(4 / 3) + 0.5 * math.log(3) ** 2)


def test_it_is_the_penalised_logistic_regression_of_scaled_differences(
    features: tuple[torch.Tensor, torch.Tensor],
) -> None:
    chosen, rejected = features
    ridge = 0.2
    differences = (chosen - rejected).numpy()
    scales = (differences**2).mean(0) ** 0.5
    both = [*(differences / scales), *(-differences / scales)]
    # C multiplies the sum of losses, of which each pair has two.
    fitted = LogisticRegression(C=1 / (2 * N * ridge), fit_intercept=False, tol=1e-10, max_iter=1000)
    fitted.fit(both, [1] * N + [0] * N)
    ours = fit_linear_reward(chosen, rejected, ones(), zeros(), ridge=ridge)
    assert ours.numpy() == pytest.approx(fitted.coef_[0] / scales, abs=1e-5)


def test_the_gradient_is_zero_there_with_margins_soft_labels_and_centring(
    features: tuple[torch.Tensor, torch.Tensor],
) -> None:
    chosen, rejected = features
    generator = torch.Generator().manual_seed(1)
    labels = 0.5 + torch.rand(N, generator=generator, dtype=torch.float64) / 2
    margins = torch.rand(N, generator=generator, dtype=torch.float64)
    weight = fit_linear_reward(chosen, rejected, labels, margins, ridge=0.1, centering=0.05).requires_grad_()
    scales = (chosen - rejected).pow(2).mean(0).sqrt()
    penalty = 0.1 / 2 * (weight * scales).pow(2).sum()
    (linear_reward_loss(weight, chosen, rejected, labels, margins, 0.05) + penalty).backward()
    assert weight.grad is not None and weight.grad.abs().max() < 1e-6
    assert weight.abs().max() > 0.05


def test_the_unit_of_a_feature_makes_no_difference(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    chosen, rejected = features
    factors = torch.tensor([1e3, 1e-3, 1, 7, 1], dtype=torch.float64)
    plain = fit_linear_reward(chosen, rejected, ones(), zeros(), ridge=0.1)
    scaled = fit_linear_reward(chosen * factors, rejected * factors, ones(), zeros(), ridge=0.1)
    assert (scaled * factors).numpy() == pytest.approx(plain.numpy(), abs=1e-6)


def test_a_feature_that_is_equal_in_all_pairs_gets_no_weight(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    chosen, rejected = features
    chosen[:, 2] = rejected[:, 2]
    weight = fit_linear_reward(chosen, rejected, ones(), zeros(), ridge=0.1)
    assert weight[2] == 0 and weight[0] > 0.1
