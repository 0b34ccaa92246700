"""The winner's likelihood: hand-worked values, its gradient, and who is held up."""

from __future__ import annotations

import pytest
import torch

from align_cli.methods.likelihood import nll_term


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_it_is_the_winners_per_token() -> None:
    found = nll_term(of(-6.0), of(-100.0), torch.tensor([3]), torch.tensor([4]), of(1.0))
    assert found.item() == 2.0


def test_a_label_below_1_weighs_both() -> None:
    found = nll_term(of(-6.0), of(-8.0), torch.tensor([3]), torch.tensor([2]), of(0.75))
    assert found.item() == pytest.approx(0.75 * 2 + 0.25 * 4)


def test_the_winner_becomes_likelier_and_the_loser_is_left_alone() -> None:
    chosen, rejected = of(-6.0).requires_grad_(), of(-8.0).requires_grad_()
    nll_term(chosen, rejected, torch.tensor([3]), torch.tensor([2]), of(1.0)).sum().backward()
    assert chosen.grad is not None and rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == (pytest.approx(-1 / 3), 0.0)


def test_a_response_without_tokens_counts_as_one_token_long() -> None:
    assert nll_term(of(0.0), of(-1.0), torch.tensor([0]), torch.tensor([1]), of(1.0)).item() == 0.0
