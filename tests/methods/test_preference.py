"""Preference losses: hand-worked values, gradients, limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from align_cli.methods.preference import (
    REFERENCE_FREE,
    expected_preference_loss,
    preference_loss,
    preference_margin,
)

LOSS_TYPES = ["sigmoid", "ipo", "inpo", "hinge", "simpo"]
finite = st.floats(-30, 30, allow_nan=False)


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss_type", "beta", "margin", "expected"),
    [
        ("sigmoid", 0.1, 0.0, math.log(2)),
        ("sigmoid", 0.1, 10.0, math.log(1 + math.exp(-1))),
        ("sigmoid", 0.5, -4.0, math.log(1 + math.exp(2))),
        ("ipo", 0.1, 0.0, 25.0),
        ("ipo", 0.5, 3.0, 4.0),
        ("ipo", 0.1, 5.0, 0.0),
        ("inpo", 0.25, 3.0, 1.0),
        ("hinge", 0.1, 0.0, 1.0),
        ("hinge", 0.1, 10.0, 0.0),
        ("hinge", 0.1, 25.0, 0.0),
        ("hinge", 0.5, -2.0, 2.0),
    ],
)
def test_losses_have_their_hand_worked_values(loss_type: str, beta: float, margin: float, expected: float) -> None:
    assert preference_loss(of(margin), loss_type, beta).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_losses_have_the_gradient_of_finite_differences(loss_type: str) -> None:
    margins = of(-3.0, -0.5, 0.4, 2.0, 7.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: preference_loss(h, loss_type, 0.1), (margins,))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_larger_margin_never_costs_more_below_the_target(loss_type: str) -> None:
    margins = torch.linspace(-20, 5, 50, dtype=torch.float64)
    assert (preference_loss(margins, loss_type, 0.1).diff() <= 0).all()


def test_an_unknown_loss_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown loss type 'dpo'"):
        preference_loss(of(0.0), "dpo", 0.1)


def test_ipo_and_simpo_divide_each_score_by_its_own_length() -> None:
    scores = of(6.0), of(-4.0)
    lengths = torch.tensor([3]), torch.tensor([2])
    assert preference_margin(*scores, *lengths, "ipo").item() == 6 / 3 + 4 / 2
    assert preference_margin(*scores, *lengths, "simpo").item() == 6 / 3 + 4 / 2
    assert preference_margin(*scores, *lengths, "sigmoid").item() == 10
    assert preference_margin(*scores, *lengths, "inpo").item() == 10
    assert preference_margin(*scores, *lengths, "hinge").item() == 10


def test_a_response_without_tokens_counts_as_one_token_long() -> None:
    margin = preference_margin(of(0.0), of(3.0), torch.tensor([0]), torch.tensor([3]), "ipo")
    assert margin.item() == -1
    margin = preference_margin(of(3.0), of(0.0), torch.tensor([3]), torch.tensor([0]), "ipo")
    assert margin.item() == 1


@given(one=finite, other=finite, length=st.integers(1, 40), other_length=st.integers(1, 40))
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_swapping_the_responses_turns_the_margin(
    loss_type: str, one: float, other: float, length: int, other_length: int
) -> None:
    lengths = torch.tensor([length]), torch.tensor([other_length])
    there = preference_margin(of(one), of(other), *lengths, loss_type)
    back = preference_margin(of(other), of(one), *reversed(lengths), loss_type)
    assert there.item() == -back.item()


def expected(
    margins: torch.Tensor, labels: torch.Tensor, loss_type: str, beta: float, gamma: float = 0.0
) -> torch.Tensor:
    """The expected loss of margins."""
    forward, backward = (preference_loss(sign * margins, loss_type, beta, gamma) for sign in (1, -1))
    return expected_preference_loss(forward, backward, labels)


@given(margin=finite, label=st.floats(0, 1))
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_turning_pair_and_label_changes_nothing(loss_type: str, margin: float, label: float) -> None:
    there = expected(of(margin), of(label), loss_type, 0.1)
    back = expected(of(-margin), of(1 - label), loss_type, 0.1)
    assert there.item() == pytest.approx(back.item(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_soft_label_is_the_expectation_over_who_wins(loss_type: str) -> None:
    wins, loses = preference_loss(of(2.0), loss_type, 0.1), preference_loss(of(-2.0), loss_type, 0.1)
    assert torch.equal(expected(of(2.0), of(1.0), loss_type, 0.1), wins)
    assert expected(of(2.0), of(0.3), loss_type, 0.1).item() == pytest.approx((0.3 * wins + 0.7 * loses).item())


def test_a_policy_label_leaves_dpo_no_expected_gradient() -> None:
    """With weights σ(βh) from the same β and θ, E[∇ℓ] is exactly 0."""
    margins = of(-4.0, 0.3, 5.0).requires_grad_()
    labels = torch.sigmoid(0.1 * margins).detach()
    (gradient,) = torch.autograd.grad(expected(margins, labels, "sigmoid", 0.1).sum(), margins)
    assert gradient.abs().max().item() < 1e-15


def test_simpo_alone_has_no_reference() -> None:
    assert [loss_type for loss_type in LOSS_TYPES if loss_type in REFERENCE_FREE] == ["simpo"]


class TestSimpo:
    """−log σ(β/|y_w| log π(y_w) − β/|y_l| log π(y_l) − γ): Eq. 6 of arXiv:2405.14734."""

    def loss(self, chosen: torch.Tensor, rejected: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
        margins = preference_margin(chosen, rejected, torch.tensor([4]), torch.tensor([2]), "simpo")
        return preference_loss(margins, "simpo", beta, gamma)

    @pytest.mark.parametrize(
        ("beta", "gamma", "logit"),
        [
            (2.0, 0.0, 1.0),  # 2 · (−6 / 4) − 2 · (−4 / 2)
            (2.0, 1.0, 0.0),
            (2.0, 1.6, -0.6),
            (2.5, 0.5, 0.75),
            (10.0, 3.0, 2.0),
        ],
    )
    def test_it_has_its_hand_worked_values(self, beta: float, gamma: float, logit: float) -> None:
        found = self.loss(of(-6.0), of(-4.0), beta, gamma).item()
        assert found == pytest.approx(math.log(1 + math.exp(-logit)), abs=1e-12)

    def test_its_margin_is_that_of_log_probabilities_a_token(self) -> None:
        margin = preference_margin(of(-6.0), of(-4.0), torch.tensor([4]), torch.tensor([2]), "simpo")
        assert margin.item() == -6 / 4 + 4 / 2

    def test_its_gradient_is_the_papers(self) -> None:
        """β σ(γ − βh), divided by each response's length: Eq. 7 and appendix."""
        chosen, rejected = of(-6.0).requires_grad_(), of(-4.0).requires_grad_()
        gradients = torch.autograd.grad(self.loss(chosen, rejected, 2.0, 1.6).sum(), (chosen, rejected))
        weight = 2.0 / (1 + math.exp(-0.6))
        assert [gradient.item() for gradient in gradients] == pytest.approx([-weight / 4, weight / 2])

    def test_it_has_the_gradient_of_finite_differences(self) -> None:
        logps = of(-6.0).requires_grad_(), of(-4.0).requires_grad_()
        assert torch.autograd.gradcheck(lambda one, two: self.loss(one, two, 2.0, 0.7), logps)

    def test_without_a_target_margin_it_is_the_sigmoid_loss_of_its_margin(self) -> None:
        margins = torch.linspace(-9, 9, 19, dtype=torch.float64)
        assert torch.equal(preference_loss(margins, "simpo", 2.0, 0.0), preference_loss(margins, "sigmoid", 2.0))

    def test_at_the_target_margin_it_is_log_two_and_far_beyond_it_nothing(self) -> None:
        at, beyond, short = preference_loss(of(0.4, 100.0, -100.0), "simpo", 2.0, 0.8)
        assert at.item() == pytest.approx(math.log(2))
        assert beyond.item() < 1e-12
        assert short.item() == pytest.approx(200.8)

    def test_a_larger_target_margin_costs_more(self) -> None:
        losses = [preference_loss(of(0.3), "simpo", 2.0, gamma).item() for gamma in (0.0, 0.5, 1.0, 2.0)]
        assert losses == sorted(losses) and len(set(losses)) == 4

    def test_a_soft_label_asks_either_response_to_win_by_the_margin(self) -> None:
        found = expected(of(0.3), of(0.75), "simpo", 2.0, 0.5).item()
        ahead, behind = (math.log(1 + math.exp(-(sign * 0.6 - 0.5))) for sign in (1, -1))
        assert found == pytest.approx(0.75 * ahead + 0.25 * behind)

    @pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
    def test_the_other_losses_know_no_target_margin(self, loss_type: str) -> None:
        assert preference_loss(of(0.3), loss_type, 0.5, 7.0).item() == preference_loss(of(0.3), loss_type, 0.5).item()
