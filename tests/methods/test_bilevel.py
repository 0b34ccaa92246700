"""The bilevel response term: exact by enumeration, and wrong in no sign or factor."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from align_cli.methods.bilevel import leave_one_out_baseline, response_term
from align_cli.methods.preference import expected_preference_loss, preference_margin

NUM_RESPONSES = 5
BETA = 0.5


class Enumerated:
    """A policy over five responses that can be listed; pairs are two independent draws, labelled by a fixed reward."""

    def __init__(self, loss_type: str) -> None:
        generator = torch.Generator().manual_seed(3)
        self.logits = torch.randn(NUM_RESPONSES, generator=generator, dtype=torch.float64).requires_grad_()
        self.reference = torch.randn(NUM_RESPONSES, generator=generator, dtype=torch.float64).log_softmax(-1)
        self.reward = torch.randn(NUM_RESPONSES, generator=generator, dtype=torch.float64)
        self.lengths = torch.arange(1, NUM_RESPONSES + 1)
        self.loss_type = loss_type
        self.pairs = torch.tensor(list(product(range(NUM_RESPONSES), repeat=2)))

    def losses(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ℓ̄, log πθ(y1) + log πθ(y2), and the probability of every pair."""
        logps = self.logits.log_softmax(-1)
        ratios = logps - self.reference
        one, two = self.pairs.T
        margins = preference_margin(ratios[one], ratios[two], self.lengths[one], self.lengths[two], self.loss_type)
        labels = torch.sigmoid(self.reward[one] - self.reward[two])
        losses = expected_preference_loss(margins, labels, self.loss_type, BETA)
        pair_logps = logps[one] + logps[two]
        return losses, pair_logps, pair_logps.exp()

    def gradient(self, value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, self.logits)[0]


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_at_coefficient_one_the_surrogate_has_the_gradient_of_the_enumerated_objective(
    loss_type: str, baseline: float
) -> None:
    policy = Enumerated(loss_type)
    losses, _, probabilities = policy.losses()
    exact = policy.gradient((probabilities * losses).sum())
    losses, pair_logps, probabilities = policy.losses()
    surrogate = losses + response_term(losses, torch.full_like(losses, baseline), pair_logps)
    averaged = policy.gradient((probabilities.detach() * surrogate).sum())
    torch.testing.assert_close(averaged, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_the_enumerated_gradient_tells_a_wrong_sign_or_factor(loss_type: str) -> None:
    """The test above can fail: the term with another sign, with a factor, or left out gives another gradient."""
    policy = Enumerated(loss_type)
    losses, _, probabilities = policy.losses()
    exact = policy.gradient((probabilities * losses).sum())
    for wrong_factor in (-1.0, 0.0, 0.5, 2.0):
        losses, pair_logps, probabilities = policy.losses()
        surrogate = losses + wrong_factor * response_term(losses, torch.zeros_like(losses), pair_logps)
        averaged = policy.gradient((probabilities.detach() * surrogate).sum())
        assert (averaged - exact).abs().max().item() > 1e-3


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_a_leave_one_out_baseline_over_a_batch_keeps_the_gradient_exact(loss_type: str) -> None:
    """Every batch of two independent pairs, weighted by its probability."""
    policy = Enumerated(loss_type)
    losses, _, probabilities = policy.losses()
    exact = policy.gradient((probabilities * losses).sum())
    losses, pair_logps, probabilities = policy.losses()
    one, two = torch.tensor(list(product(range(len(losses)), repeat=2))).T
    batch_losses = torch.stack([losses[one], losses[two]])
    baselines = torch.stack(
        [leave_one_out_baseline(batch, torch.tensor([0, 1]), torch.tensor([0, 1]), 0.0) for batch in batch_losses.T]
    ).T
    torch.testing.assert_close(baselines, batch_losses.flip(0).detach())
    terms = response_term(batch_losses, baselines, torch.stack([pair_logps[one], pair_logps[two]]))
    weights = (probabilities[one] * probabilities[two]).detach()
    averaged = policy.gradient((weights * (batch_losses + terms).mean(0)).sum())
    torch.testing.assert_close(averaged, exact, rtol=1e-10, atol=1e-12)


def test_the_term_pushes_down_responses_that_cost_more_than_usual() -> None:
    logps = torch.tensor([-2.0, -2.0], requires_grad=True)
    response_term(torch.tensor([1.0, 0.2]), torch.tensor([0.5, 0.5]), logps).sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([0.5, -0.3])  # descent lowers the first, raises the second


def test_the_term_sends_no_gradient_through_loss_or_baseline() -> None:
    losses, baselines, logps = (torch.ones(2, requires_grad=True) for _ in range(3))
    response_term(losses, baselines, logps).sum().backward()
    assert losses.grad is None and baselines.grad is None and logps.grad is not None


def test_the_baseline_leaves_out_every_copy_of_a_pair() -> None:
    losses, ids = torch.tensor([1.0, 2.0, 4.0, 2.0]), torch.tensor([7, 8, 9, 8])
    baselines = leave_one_out_baseline(losses, ids, ids, empty=0.0)
    assert baselines.tolist() == pytest.approx([8 / 3, 5 / 2, 5 / 3, 5 / 2])


def test_the_baseline_of_a_lone_pair_is_what_the_caller_says() -> None:
    ids = torch.tensor([3, 3])
    assert leave_one_out_baseline(torch.tensor([1.0, 5.0]), ids, ids, empty=0.25).tolist() == [0.25, 0.25]


def test_the_baseline_of_a_micro_batch_averages_the_global_batch() -> None:
    losses, ids = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 2])
    whole = leave_one_out_baseline(losses, ids, ids, empty=0.0)
    parts = [leave_one_out_baseline(losses, ids, ids[part], empty=0.0) for part in (slice(0, 1), slice(1, 3))]
    assert torch.equal(torch.cat(parts), whole)
