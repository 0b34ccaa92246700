"""The geometric mixture of two references."""

from __future__ import annotations

import pytest
import torch

from align_cli.methods.reference import mixed_reference_logps


def test_it_is_weighed_and_its_ends_are_the_two() -> None:
    initial, previous = torch.tensor([-3.0, -1.0]), torch.tensor([-6.0, -2.0])
    assert mixed_reference_logps(initial, previous, 1 / 3).tolist() == pytest.approx([-5.0, -5 / 3])
    assert mixed_reference_logps(initial, previous, 0.0).tolist() == previous.tolist()
    assert mixed_reference_logps(initial, previous, 1.0).tolist() == initial.tolist()


def test_margins_are_those_of_the_normalised_mixture() -> None:
    """π ∝ π_init^w π_prev^(1 − w) over four responses: the constant cancels between two of them."""
    initial, previous = (torch.randn(4, dtype=torch.float64).log_softmax(0) for _ in range(2))
    mixed = mixed_reference_logps(initial, previous, 0.3)
    normalised = (
        initial.exp() ** 0.3 * previous.exp() ** 0.7 / (initial.exp() ** 0.3 * previous.exp() ** 0.7).sum()
    ).log()
    torch.testing.assert_close(mixed[1:] - mixed[0], normalised[1:] - normalised[0])
