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


@pytest.mark.parametrize(
    ("kl", "weighed", "moved"),
    [(0, 0.01, -0.1), (1e-9, 0.01, -0.1), (-1e-9, 0.01, -0.1), (0.7, 0.35, -0.1), (0.8, 0.4, None), (1e6, 4, 1)],
)
def test_far_away_it_is_bounded(kl: float, weighed: float, moved: float | None) -> None:
    control = begin(0.05).after(kl, target=2.0)
    moved = math.log(kl / 2.0) if moved is None else moved
    assert control.weight == pytest.approx(0.05 * math.exp(0.02 * moved))
    assert control.coefficient == pytest.approx(weighed * control.weight)


def test_its_weight_never_leaves_a_hundredth_and_a_hundred_times_its_beginning() -> None:
    for kl, bound in ((0.9, 0.0005), (1e6, 5.0)):
        control = begin(0.05)
        for _ in range(2000):
            control = control.after(kl, target=2.0)
        assert control.weight == pytest.approx(bound)


def test_at_the_target_nothing_moves() -> None:
    assert begin(0.05).after(kl=2.0, target=2.0) == begin(0.05)


def course(coefficient: float, target: float, steps: int, lag: int) -> tuple[list[float], float]:
    """The KL of a policy that goes, within some steps, to where it is inversely proportional to its weight."""
    control, kl, seen = begin(coefficient), 1e-3, []
    for _ in range(steps):
        kl *= (0.1 / control.coefficient / kl) ** (1 / lag)
        control = control.after(kl, target)
        seen.append(kl)
    return seen, control.weight


@pytest.mark.parametrize("target", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("coefficient", [0.01, 0.05, 0.25])
def test_a_policy_settles_at_the_target_from_any_beginning(coefficient: float, target: float) -> None:
    """One that answers within some 40 steps, as was measured."""
    seen, weight = course(coefficient, target, steps=1000, lag=40)
    assert seen[-1] == pytest.approx(target, rel=0.02)
    assert weight == pytest.approx(0.1 / target, rel=0.05), "which is the one weight that holds it there"
    assert sum((one < target) != (other < target) for one, other in pairwise(seen)) <= 3, "swings"


@pytest.mark.parametrize("lag", [40, 150, 400])
def test_a_policy_on_a_long_way_to_the_target_is_still_held_when_it_arrives(lag: int) -> None:
    """A small learning rate: the weight does not run out while the KL is far below."""
    seen, _ = course(0.05, 2.0, steps=15 * lag, lag=lag)
    assert max(seen) < 2.0 * 2.0
    assert seen[-1] == pytest.approx(2.0, rel=0.1)
