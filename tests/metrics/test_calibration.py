from __future__ import annotations

import math
import random

import pytest
from sklearn.metrics import log_loss as sklearn_log_loss

from align_cli.metrics.calibration import calibration, grouped_interval, log_loss, outcomes_of


def sigma(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_the_log_loss_by_hand() -> None:
    """−ln σ(ln 3) = ln 4/3; with q = ¾ at h = −ln 3: −¾ ln ¼ − ¼ ln ¾."""
    assert log_loss([math.log(3)], [1.0]) == pytest.approx(math.log(4 / 3))
    assert log_loss([-math.log(3)], [0.75]) == pytest.approx(0.75 * math.log(4) + 0.25 * math.log(4 / 3))
    assert log_loss([0.0, 0.0], [1.0, 0.6]) == pytest.approx(math.log(2))


def test_the_log_loss_is_sklearns_and_finite_far_out() -> None:
    margins = [0.3, -1.2, 2.5, -0.01]
    assert log_loss(margins, [1.0] * 4) == pytest.approx(
        sklearn_log_loss([1] * 4, [sigma(m) for m in margins], labels=[0, 1])
    )
    assert log_loss([-1000.0], [1.0]) == pytest.approx(1000.0)


def test_what_an_order_is_worth() -> None:
    assert outcomes_of([2.0, -2.0, 0.0, 2.0, -2.0], [1.0, 1.0, 1.0, 0.7, 0.7]) == pytest.approx([1, 0, 0.5, 0.7, 0.3])


def test_the_calibration_error_by_hand() -> None:
    """Two pairs at confidence 0.55, one right; two at 0.95, both right: ½·|½ − 0.55| + ½·|1 − 0.95|."""
    low, high = math.log(0.55 / 0.45), math.log(0.95 / 0.05)
    error, bins = calibration([low, -low, high, high], [1.0] * 4)
    assert error == pytest.approx(0.05)
    assert [one.num_pairs for one in bins] == [2, 0, 0, 0, 2]
    assert bins[0] == pytest.approx((0.5, 0.6, 2, 0.55, 0.5))
    assert bins[1] == pytest.approx((0.6, 0.7, 0, 0.65, 0.0))


def test_sides_say_nothing_and_a_certain_model_falls_into_the_last_bin() -> None:
    margins = [0.2, -0.7, 1.5]
    assert calibration(margins, [1.0] * 3).error == pytest.approx(calibration([-m for m in margins], [0.0] * 3).error)
    assert calibration([800.0], [1.0]).bins[-1].num_pairs == 1
    assert calibration([0.0], [1.0]).bins[0].num_pairs == 1


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated() -> None:
    rng = random.Random(0)
    margins = [rng.gauss(0, 2) for _ in range(20_000)]
    flipped = [margin if rng.random() < sigma(abs(margin)) else -margin for margin in map(abs, margins)]
    assert calibration(flipped, [1.0] * len(flipped)).error < 0.01
    assert calibration([4 * margin for margin in flipped], [1.0] * len(flipped)).error > 0.1, "four times as sure"


def test_pairs_of_one_prompt_are_drawn_together() -> None:
    """Ten prompts of ten equal pairs know as much as ten pairs, not as a hundred."""
    values = [float(prompt % 2) for prompt in range(10) for _ in range(10)]
    together = grouped_interval(values, [prompt for prompt in range(10) for _ in range(10)], seed=0)
    ten = grouped_interval([float(prompt % 2) for prompt in range(10)], list(range(10)), seed=0)
    apart = grouped_interval(values, list(range(100)), seed=0)
    assert together == pytest.approx(ten)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_an_interval_covers_as_often_as_it_says() -> None:
    rng, covered, trials = random.Random(1), 0, 300
    for trial in range(trials):
        values, groups = [], []
        for group in range(60):
            rate = rng.random()  # of mean one half, and the prompt's own
            for _ in range(rng.randint(1, 4)):
                values.append(float(rng.random() < rate))
                groups.append(group)
        low, high = grouped_interval(values, groups, seed=trial, num_resamples=400)
        covered += low <= 0.5 <= high
    assert 0.91 <= covered / trials <= 0.98


@pytest.mark.parametrize(
    ("margins", "labels"), [([], []), ([1.0], []), ([math.nan], [1.0]), ([1.0], [1.5]), ([math.inf], [1.0])]
)
def test_nonsense_is_refused(margins: list[float], labels: list[float]) -> None:
    for metric in (log_loss, outcomes_of, calibration):
        with pytest.raises(ValueError, match="margins"):
            metric(margins, labels)


def test_there_is_something_to_draw_and_to_put_into_bins() -> None:
    with pytest.raises(ValueError, match="groups"):
        grouped_interval([1.0], [], seed=0)
    with pytest.raises(ValueError, match="num_resamples"):
        grouped_interval([1.0], ["a"], seed=0, num_resamples=0)
    with pytest.raises(ValueError, match="bin"):
        calibration([1.0], [1.0], num_bins=0)
