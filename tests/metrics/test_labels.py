"""Whether labels are worth training on, by hand."""

from __future__ import annotations

import pytest

from align_cli.metrics.labels import LengthPreference, WinnerAgreement, length_preference, winner_agreement


def test_the_longer_response_wins_by_the_label_of_its_side() -> None:
    found = length_preference([1.0, 1.0, 0.0, 0.75], [5, 3, 2, 9], [4, 4, 6, 1])
    assert found == LengthPreference((1.0 + 0.0 + 1.0 + 0.75) / 4, 4)


def test_pairs_of_equal_length_say_nothing_of_length() -> None:
    assert length_preference([1.0, 0.0], [5, 3], [5, 4]) == LengthPreference(1.0, 1)
    assert length_preference([1.0], [5], [5]) is None
    assert length_preference([], [], []) is None


def test_swapping_the_responses_changes_nothing() -> None:
    labels, lengths, others = [1.0, 0.25, 0.5], [5.0, 3.0, 8.0], [4.0, 4.0, 2.0]
    assert length_preference([1 - label for label in labels], others, lengths) == length_preference(
        labels, lengths, others
    )


def test_two_labelers_agree_where_they_name_the_same_winner() -> None:
    assert winner_agreement([1.0, 0.9, 0.0, 0.2], [0.6, 0.1, 0.4, 0.0]) == WinnerAgreement(0.75, 4)


def test_ties_and_what_one_says_nothing_of_count_for_nobody() -> None:
    assert winner_agreement([0.5, 1.0, None, 1.0], [1.0, 0.5, 1.0, 1.0]) == WinnerAgreement(1.0, 1)
    assert winner_agreement([0.5], [1.0]) is None


@pytest.mark.parametrize("label", [-0.1, 1.1])
def test_a_label_is_a_probability(label: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and at most 1"):
        length_preference([label], [1], [2])
    with pytest.raises(ValueError, match="at least 0 and at most 1"):
        winner_agreement([label], [1.0])


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        winner_agreement([1.0], [])
    with pytest.raises(ValueError, match="zip"):
        length_preference([1.0], [1.0], [])
