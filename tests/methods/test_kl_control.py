"""The control of the KL: its law at single steps, and what becomes of a policy that answers it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from align_cli.methods.kl_control import begin


def test_one_step_is_the_law() -> None:
    far = begin(0.05).after(kl=3.0, target=2.0)
    assert far.weight == pytest.approx(0.05 * 1.5**0.02)
    assert far.coefficient == pytest.approx(1.5 * far.weight)
    near = far.after(kl=1.0, target=2.0)
    assert near.weight == pytest.approx(0.05 * (1.5 * 0.5) ** 0.02)
    assert near.coefficient == pytest.approx(0.5 * near.weight)
    assert near.begun == far.begun == 0.05


@pytest.mark.parametrize(("kl", "weighed", "moved"), [(0, 0.01, -1), (1e-9, 0.01, -1), (-1e-9, 0.01, -1), (1e6, 4, 1)])
def test_far_away_it_is_bounded(kl: float, weighed: float, moved: int) -> None:
    control = begin(0.05).after(kl, target=2.0)
    assert control.weight == pytest.approx(0.05 * math.exp(0.02 * moved))
    assert control.coefficient == pytest.approx(weighed * control.weight)


def test_at_the_target_nothing_moves() -> None:
    assert begin(0.05).after(kl=2.0, target=2.0) == begin(0.05)


@pytest.mark.parametrize("target", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("coefficient", [0.01, 0.05, 0.25])
def test_a_policy_settles_at_the_target_from_any_beginning(coefficient: float, target: float) -> None:
    """One whose KL goes, within some 40 steps, to where it is inversely proportional to its weight, as was measured."""
    control, kl, seen = begin(coefficient), 1e-3, []
    for _ in range(600):
        at_rest = 0.1 / control.coefficient
        kl *= (at_rest / kl) ** (1 / 40)
        control = control.after(kl, target)
        seen.append(kl)
    assert kl == pytest.approx(target, rel=0.02)
    assert control.weight == pytest.approx(0.1 / target, rel=0.05), "which is the one weight that holds it there"
    swings = sum((one < target) != (other < target) for one, other in pairwise(seen))
    assert swings <= 3
