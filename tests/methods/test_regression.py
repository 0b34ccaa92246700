"""SPPO and REBEL: hand-worked values, gradients, limits; and that what is swapped or turned round is seen."""

from __future__ import annotations

import pytest
import torch

from align_cli.methods.regression import rebel_loss, sppo_loss


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_sppo_has_its_hand_worked_value() -> None:
    """η 4: targets 4 · 0.25 = 1 and 4 · −0.4 = −1.6, errors 2 and 0.6."""
    loss = sppo_loss(of(3.0), of(-1.0), of(0.75), of(0.1), beta=0.25)
    assert loss.item() == pytest.approx(2.0**2 + 0.6**2)


def test_sppo_is_0_where_both_log_ratios_are_what_the_win_rates_ask_for() -> None:
    assert sppo_loss(of(1.0), of(-1.6), of(0.75), of(0.1), beta=0.25).item() == pytest.approx(0)


def test_sppo_with_win_rates_of_1_and_0_is_that_of_hard_labels() -> None:
    """(s_w − 1/(2β))² + (s_l + 1/(2β))², TRL's sppo_hard."""
    loss = sppo_loss(of(0.3), of(0.7), of(1.0), of(0.0), beta=0.5)
    assert loss.item() == pytest.approx((0.3 - 1) ** 2 + (0.7 + 1) ** 2)


def test_sppo_moves_each_response_by_itself() -> None:
    """A winner is pulled up and a loser down from a log-ratio of 0; one that wins half of the time stays."""
    ratios = of(0.0, 0.0).requires_grad_(), of(0.0, 0.0).requires_grad_()
    sppo_loss(*ratios, of(0.9, 0.5), of(0.2, 0.4), beta=0.1).sum().backward()
    assert ratios[0].grad is not None and ratios[1].grad is not None
    assert ratios[0].grad.tolist() == pytest.approx([-2 * 4.0, 0.0])
    assert ratios[1].grad.tolist() == pytest.approx([2 * 3.0, 2 * 1.0])


def test_rebel_has_its_hand_worked_value() -> None:
    """0.5 · 3 − 2 = −0.5."""
    assert rebel_loss(of(3.0), of(2.0), beta=0.5).item() == pytest.approx(0.25)


def test_rebel_wants_the_margin_of_the_rewards_and_of_a_tie_none() -> None:
    assert rebel_loss(of(4.0, 0.0), of(2.0, 0.0), beta=0.5).tolist() == [0.0, 0.0]
    margins = of(0.0, 6.0, 0.5).requires_grad_()
    rebel_loss(margins, of(2.0, 2.0, 0.0), beta=0.5).sum().backward()
    assert margins.grad is not None
    assert margins.grad.sign().tolist() == [-1.0, 1.0, 1.0], "up to the gap, and down to it"


def test_rebel_does_not_care_which_of_both_is_called_chosen() -> None:
    assert rebel_loss(of(-3.0), of(-2.0), 0.5).item() == rebel_loss(of(3.0), of(2.0), 0.5).item()
    assert rebel_loss(of(-3.0), of(2.0), 0.5).item() == pytest.approx(3.5**2), "but swapping one of them is seen"


def test_both_have_the_gradient_of_finite_differences() -> None:
    chosen, rejected = of(-1.0, 0.5).requires_grad_(), of(2.0, -0.3).requires_grad_()
    rates = of(0.8, 0.6), of(0.1, 0.5)
    assert torch.autograd.gradcheck(lambda one, other: sppo_loss(one, other, *rates, 0.2), (chosen, rejected))
    assert torch.autograd.gradcheck(lambda margins: rebel_loss(margins, of(1.0, -2.0), 0.2), (chosen,))
