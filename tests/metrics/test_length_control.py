"""The length-controlled win rate against independent fits of the published design, and its interval against the truth.

Annotations have AlpacaEval's form: two outputs, and a preference in [1, 2] for the second, which is the model's.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_cli.metrics.length_control import LengthControlled, length_controlled_win_rate
from align_cli.metrics.preference import win_rate_of

Annotation = dict[str, Any]


def annotations(kind: str, count: int, seed: int) -> list[Annotation]:
    """What a judge said of a model against a baseline, which likes long answers: `hard`, `soft` or with many `ties`."""
    generator, rows = random.Random(seed), []
    for index in range(count):
        of_baseline, of_model = (generator.randint(20, 900) for _ in range(2))
        probability = 1 / (1 + math.exp(-(0.4 + (of_model - of_baseline) / 300)))
        won = float(generator.random() < probability)
        preference = {
            "hard": 1 + won,
            "soft": 1 + min(max(probability + generator.gauss(0, 0.2), 0.0), 1.0),
            "ties": generator.choice([1 + won, 1.5, 1.5]),
        }[kind]
        rows.append(
            {
                "instruction": f"instruction {index}",
                "output_1": "b" * of_baseline,
                "generator_1": "baseline",
                "output_2": "m" * of_model,
                "generator_2": "model",
                "preference": preference,
            }
        )
    return rows


def measured(rows: list[Annotation], **options: Any) -> LengthControlled:
    """Ours, of the model, whose outputs are the second ones."""
    return length_controlled_win_rate(
        [row["preference"] - 1 for row in rows],
        [len(row["output_2"]) for row in rows],
        [len(row["output_1"]) for row in rows],
        **{"seed": 0, "num_resamples": 50} | options,
    )


def fitted_elsewhere(rows: list[Annotation]) -> tuple[float, float]:
    """The constant and the weight of length in the published design, by scikit-learn and without its penalty.

    The design: tanh of the difference of lengths over its standard deviation, and a constant. Each row stands there
    twice, as a win with the preference for weight, and as a loss with the rest.
    """
    from sklearn.linear_model import LogisticRegression

    lengths = np.array([len(row["output_1"]) - len(row["output_2"]) for row in rows], dtype=float)
    design = np.stack([np.ones(len(rows)), np.tanh(lengths / np.std(lengths, ddof=1))], axis=1)
    preferences = np.array([row["preference"] - 1 for row in rows])
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=1000, solver="newton-cholesky")
    outcomes = np.repeat([1, 0], len(rows))
    model.fit(np.tile(design, (2, 1)), outcomes, sample_weight=np.concatenate([preferences, 1 - preferences]))
    constant, weight = model.coef_[0].tolist()
    return constant, weight


@pytest.mark.parametrize("count", [25, 200, 805])
@pytest.mark.parametrize("kind", ["hard", "soft", "ties"])
def test_it_is_what_an_independent_fit_of_the_published_design_finds(kind: str, count: int) -> None:
    rows = annotations(kind, count, seed=count)
    constant, weight = fitted_elsewhere(rows)
    found = measured(rows)
    assert found.win_rate == pytest.approx(1 / (1 + math.exp(-constant)), abs=1e-6)
    assert found.length_slope == pytest.approx(-weight, abs=1e-6), (
        "theirs is of the baseline's length above the model's"
    )
    plain = win_rate_of([row["preference"] - 1 for row in rows], seed=0, num_resamples=10).win_rate
    assert abs(found.win_rate - plain) > 1e-4, "else the plain rate would pass for it"


def test_two_lengths_have_a_rate_by_hand() -> None:
    """Longer by 1: 9 of 10 won; shorter by 1: 5 of 10. These are σ(a ± b t), so a is the mean of their logits."""
    outcomes = [1.0] * 9 + [0.0] + [1.0] * 5 + [0.0] * 5
    found = length_controlled_win_rate(outcomes, [2.0] * 10 + [1.0] * 10, [1.0] * 10 + [2.0] * 10, seed=0)
    logit = math.log(9) / 2
    assert found.win_rate == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-7)
    assert found.length_slope == pytest.approx(logit / math.tanh(1 / math.sqrt(20 / 19)), abs=1e-6)


outcome_lists = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=30
)


@settings(max_examples=60, deadline=None)
@given(outcome_lists)
def test_swapping_the_players_gives_the_rest_and_the_same_slope(rows: list[tuple[float, int, int]]) -> None:
    won, ours, theirs = (list(map(float, column)) for column in zip(*rows, strict=True))
    found = length_controlled_win_rate(won, ours, theirs, seed=1, num_resamples=20)
    swapped = length_controlled_win_rate([1 - one for one in won], theirs, ours, seed=1, num_resamples=20)
    assert swapped.win_rate == pytest.approx(1 - found.win_rate, abs=1e-6)
    assert swapped.length_slope == pytest.approx(found.length_slope, rel=1e-3, abs=1e-3)
    for one in (found, swapped):
        assert 0 <= one.interval.low <= one.interval.high <= 1
        assert math.isfinite(one.length_slope) and 0 <= one.win_rate <= 1


@pytest.mark.parametrize("won", [[1.0, 0.0, 0.0, 0.5, 1.0, 1.0], [0.25] * 6])
def test_where_all_are_equally_long_it_is_the_plain_win_rate(won: list[float]) -> None:
    found = length_controlled_win_rate(won, [7.0] * 6, [5.0] * 6, seed=0)
    plain = win_rate_of(won, seed=0)
    assert found.win_rate == pytest.approx(plain.win_rate, abs=1e-7)
    assert found.length_slope == 0
    assert found.interval == pytest.approx(plain.interval, abs=0.1)


@pytest.mark.parametrize(("outcome", "rate"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_one_outcome_everywhere_is_the_rate_at_any_length(outcome: float, rate: float, count: int) -> None:
    lengths = [float(3 * index % 11) for index in range(count)]
    found = length_controlled_win_rate([outcome] * count, lengths, [4.0] * count, seed=0, num_resamples=100)
    assert found.win_rate == pytest.approx(rate, abs=1e-6)
    assert found.interval == pytest.approx((rate, rate), abs=1e-6)
    assert math.isfinite(found.length_slope)


def test_where_length_decides_everything_the_interval_says_that_nothing_is_known() -> None:
    differences = [float(step) for step in range(-20, 21) if step]
    won = [float(difference > 0) for difference in differences]
    found = length_controlled_win_rate(won, differences, [0.0] * 40, seed=0)
    assert found.win_rate == pytest.approx(0.5, abs=1e-6)
    assert found.length_slope > 20
    assert found.interval.low < 0.25 and found.interval.high > 0.75


def test_a_fit_is_the_likelihoods_highest_point_also_where_outcomes_are_nearly_decided() -> None:
    """One loss among long ones in a thousand: the slope is steep, and full steps of Newton's method overshoot."""
    generator = np.random.default_rng(3)
    differences = generator.normal(size=1000)
    won = (differences > 0.001).astype(float)
    won[np.argmax(differences)] = 0.0
    found = length_controlled_win_rate(won.tolist(), differences.tolist(), [0.0] * 1000, seed=0, num_resamples=20)
    features = np.tanh(differences / differences.std(ddof=1))

    def likelihood(a: float, b: float) -> float:
        logits = a + b * features
        return float((won * logits - np.logaddexp(0, logits)).sum())

    a, b = math.log(found.win_rate / (1 - found.win_rate)), found.length_slope
    assert all(
        likelihood(a, b) >= likelihood(a + da, b + db) for da, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-2), (0, -1e-2))
    )
    assert likelihood(a, b) > likelihood(0.0, 2.0) + 10


def test_what_length_alone_explains_is_no_lead() -> None:
    """A baseline that is written longer by a judge who likes length: the plain rate says it wins, this says it ties."""
    generator = random.Random(5)
    ours = [generator.gauss(130, 30) for _ in range(2000)]
    theirs = [generator.gauss(100, 30) for _ in range(2000)]
    spread = float(np.std(np.subtract(ours, theirs), ddof=1))
    won = []
    for one, other in zip(ours, theirs, strict=True):
        probability = 1 / (1 + math.exp(-1.5 * math.tanh((one - other) / spread)))
        won.append(float(generator.random() < probability))
    found = length_controlled_win_rate(won, ours, theirs, seed=0, num_resamples=200)
    assert win_rate_of(won, seed=0).interval.low > 0.6
    assert found.interval.low < 0.5 < found.interval.high
    assert found.length_slope == pytest.approx(1.5, abs=0.3)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """200 studies, 95% nominal: the share's standard error is 1.5 points. `benchmarks/length_control.py` does it at
    length, for more sizes."""
    generator, count, truth = np.random.default_rng(11), 100, 0.6
    constant, covered, width = math.log(truth / (1 - truth)), 0, 0.0
    for study in range(200):
        differences = generator.normal(0.5, 1.0, count)
        probabilities = 1 / (1 + np.exp(-(constant + 1.2 * np.tanh(differences))))
        won = (generator.random(count) < probabilities).astype(float)
        low, high = length_controlled_win_rate(
            won, differences, np.zeros(count), seed=study, num_resamples=150
        ).interval
        covered += low <= truth <= high
        width += (high - low) / 200
    assert 0.91 <= covered / 200 <= 0.99
    assert 0.15 < width < 0.35


def test_the_interval_depends_on_the_seed_alone_and_not_on_how_resamples_are_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = annotations("hard", 60, seed=2)
    found = measured(rows, num_resamples=300)
    assert measured(rows, num_resamples=300) == found
    assert measured(rows, num_resamples=300, seed=1).interval != found.interval
    monkeypatch.setattr("align_cli.metrics.length_control.LARGEST_BLOCK", 60)
    one_by_one = measured(rows, num_resamples=300)
    assert one_by_one.interval == pytest.approx(found.interval, abs=1e-9)


@pytest.mark.parametrize(
    ("outcomes", "ours", "theirs", "options", "message"),
    [
        ([], [], [], {}, "there are 0 outcomes and 0 differences"),
        ([1.0, 0.0], [1.0], [1.0], {}, "there are 2 outcomes and 1 differences"),
        ([1.5], [1.0], [1.0], {}, "outcomes at least 0 and at most 1"),
        ([math.nan], [1.0], [1.0], {}, "outcomes at least 0 and at most 1"),
        ([1.0], [math.inf], [1.0], {}, "lengths must be finite"),
        ([1.0], [1.0], [1.0], {"num_resamples": 0}, "num_resamples must be at least 1"),
        ([1.0], [1.0], [1.0], {"confidence": 1.0}, "confidence above 0 and below 1"),
    ],
)
def test_what_is_no_comparison_is_refused(
    outcomes: list[float], ours: list[float], theirs: list[float], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        length_controlled_win_rate(outcomes, ours, theirs, **{"seed": 0} | options)
