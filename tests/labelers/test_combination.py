"""Several labelers put together, by hand-worked values."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.labelers import build_labeler
from align_cli.labelers.combination import Combination
from align_cli.recipe.sections.labelers.combination import CombinationLabelerSection

Values = list[float | None]


def combine(by: str, said: dict[str, Values], weights: dict[str, float] | None = None, **section: Any) -> Values:
    of = weights or dict.fromkeys(said, 1.0)
    labeler = build_labeler("both", CombinationLabelerSection(kind="combination", of=of, by=by, **section))  # type: ignore[arg-type]
    assert isinstance(labeler, Combination) and labeler.gives_verdicts == (by != "sum")
    return labeler.combine(said)


def test_a_sum_adds_standardised_scores_by_weight() -> None:
    said: dict[str, Values] = {"one": [1.0, 3.0], "two": [100.0, 0.0]}
    assert combine("sum", said) == pytest.approx([0.0, 0.0], abs=1e-12)
    assert combine("sum", said, {"one": 2.0, "two": 0.5}) == pytest.approx([-2.0 + 0.5, 2.0 - 0.5])
    assert combine("sum", said, {"one": 2.0, "two": 0.5}, standardize=False) == [52.0, 6.0]


def test_a_labeler_whose_scores_are_all_equal_adds_nothing() -> None:
    assert combine("sum", {"one": [7.0, 7.0, 7.0], "two": [0.0, 3.0, 0.0]}) == pytest.approx(
        [-1 / math.sqrt(2), math.sqrt(2), -1 / math.sqrt(2)]
    )
    assert combine("sum", {"one": [7.0], "two": [1e9]}) == [0.0]


def test_a_score_that_lacks_makes_no_sum_and_does_not_shift_the_others() -> None:
    said: dict[str, Values] = {"one": [1.0, None, 3.0], "two": [0.0, 1000.0, 0.0]}
    combined = combine("sum", said, {"one": 1.0, "two": 1e-9})
    assert combined[1] is None
    assert [combined[0], combined[2]] == pytest.approx([-1.0, 1.0], abs=1e-6)
    assert combine("sum", {"one": [None, None], "two": [1.0, 2.0]}) == [None, None]


@pytest.mark.parametrize(
    ("verdicts", "vote", "agreement"),
    [
        ((1.0, 1.0, 1.0), 1.0, 1.0),
        ((1.0, 1.0, 0.0), 0.75, None),
        ((0.0, 0.0, 1.0), 0.25, None),
        ((0.6, 0.8, 0.9), (0.6 * 1 + 0.8 * 2 + 0.9) / 4, (0.6 * 1 + 0.8 * 2 + 0.9) / 4),
        ((0.0, 0.25, 0.0), 0.125, 0.125),
        ((0.5, 1.0, 1.0), 0.875, None),
        ((0.5, 0.5, 0.5), 0.5, 0.5),
        ((None, 1.0, 0.0), 2 / 3, None),
        ((None, None, 0.0), 0.0, None),
        ((None, None, None), None, None),
    ],
)
def test_votes_are_weighted_and_agreement_wants_all_to_say_the_same(
    verdicts: tuple[float | None, ...], vote: float | None, agreement: float | None
) -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 1.0}
    said = {name: [verdict] for name, verdict in zip(weights, verdicts, strict=True)}
    for by, expected in (("vote", vote), ("agreement", agreement)):
        (found,) = combine(by, said, weights)
        assert found == (None if expected is None else pytest.approx(expected))


shares = st.one_of(st.none(), st.floats(0, 1))


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=5), st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_vote_is_a_probability_and_turns_with_its_pairs(
    rows: list[tuple[float | None, float | None]], one: float, two: float
) -> None:
    weights = {"one": one, "two": two}
    said = {name: [row[place] for row in rows] for place, name in enumerate(weights)}
    turned = {name: [None if value is None else 1 - value for value in values] for name, values in said.items()}
    for vote, other in zip(combine("vote", said, weights), combine("vote", turned, weights), strict=True):
        assert (vote is None) == (other is None)
        if vote is not None and other is not None:
            assert 0 <= vote <= 1
            assert vote + other == pytest.approx(1)


@given(st.lists(st.floats(-1e3, 1e3).map(lambda value: round(value, 3)), min_size=2, max_size=8), st.floats(0.01, 100))
def test_a_standardised_sum_forgets_a_labelers_unit(scores: list[float], unit: float) -> None:
    said: dict[str, Values] = {"one": list(scores), "two": [float(place) for place in range(len(scores))]}
    moved: dict[str, Values] = {**said, "one": [unit * score + 5 for score in scores]}
    assert combine("sum", moved) == pytest.approx(combine("sum", said), abs=1e-4)
