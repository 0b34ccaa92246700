"""What labelers say is looked at before it counts: a number or None for each thing that was asked."""

from __future__ import annotations

from typing import Any

import pytest

from align_cli.errors import LabelerError
from align_cli.labelers.checked import checked_scores, checked_verdicts


@pytest.mark.parametrize("said", [[2.0], [-0.1], [float("nan")], ["first"], [], [1.0, 0.0]])
def test_a_comparer_that_gives_no_probability_for_each_pair_is_named(said: list[Any]) -> None:
    with pytest.raises(LabelerError, match=r"labelers\.theirs"):
        checked_verdicts("theirs", said, 1)


@pytest.mark.parametrize("said", [[float("inf")], [float("nan")], ["high"], [], [1.0, 0.0]])
def test_a_scorer_that_gives_no_number_for_each_completion_is_named(said: list[Any]) -> None:
    with pytest.raises(LabelerError, match=r"labelers\.theirs"):
        checked_scores("theirs", said, 1)


def test_what_is_said_is_kept_as_numbers() -> None:
    assert checked_verdicts("theirs", [True, None, 0.5], 3) == [1.0, None, 0.5]
    assert checked_scores("theirs", [True, None, -3], 3) == [1.0, None, -3.0]
