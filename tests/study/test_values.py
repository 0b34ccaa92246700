"""What the command line says of a study, and what it must not say."""

from __future__ import annotations

import pytest

from align_cli.errors import AlignError
from align_cli.study.values import parse_axes, parse_seeds, shown_seeds, split_values, written_seeds


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1,0.2", ("0.1", "0.2")),
        (" a , b ", ("a", "b")),
        ("{offline: {mixing: 1}},{a: [1, 2], b: 3}", ("{offline: {mixing: 1}}", "{a: [1, 2], b: 3}")),
        ("'a,b',\"c,d\"", ("'a,b'", '"c,d"')),
        ("one", ("one",)),
    ],
)
def test_a_comma_within_brackets_or_quotes_separates_nothing(text: str, values: tuple[str, ...]) -> None:
    assert split_values(text) == values


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["method.beta"], "must name a key"),
        (["=1,2"], "must name a key"),
        (["method.beta="], "one of the values is empty"),
        (["method.beta=1,,2"], "one of the values is empty"),
        (["method.beta=1,2,1"], "method.beta is to be 1 twice"),
        (["method.beta=1", "rounds=2", "method.beta=3"], "two --over of method.beta"),
        (["seed=1,2"], "seed is no key to go over"),
        (["output_dir=a,b"], "output_dir is no key to go over"),
    ],
)
def test_a_fault_of_over_is_told(texts: list[str], said: str) -> None:
    with pytest.raises(AlignError, match=said):
        parse_axes(texts)


def test_all_faults_of_over_are_told_at_once() -> None:
    with pytest.raises(AlignError) as raised:
        parse_axes(["seed=1", "a=1,1", "b"])
    assert len(raised.value.faults) == 3


def test_a_number_of_seeds_begins_at_0_and_that_of_a_tuning_study_elsewhere() -> None:
    assert parse_seeds("3", for_tuning=False) == (0, 1, 2)
    assert parse_seeds("3", for_tuning=True) == (1000, 1001, 1002)
    assert parse_seeds("3,4,7", for_tuning=False) == (3, 4, 7)
    assert parse_seeds("3,", for_tuning=False) == (3,)


@pytest.mark.parametrize(
    ("text", "for_tuning", "said"),
    [
        ("0", False, "from 1 to 1000 seeds"),
        ("x", False, "whole numbers"),
        ("", False, "whole numbers"),
        ("-1,2", False, "whole numbers"),
        ("1.5", False, "whole numbers"),
        ("1,2,1", False, "seed 1 is named twice"),
        ("1,1000", False, "seed 1000 is one for tuning"),
        ("3,4", True, "seed 3 is not one for tuning"),
        ("1001", False, "from 1 to 1000 seeds"),
    ],
)
def test_a_fault_of_seeds_is_told(text: str, for_tuning: bool, said: str) -> None:
    with pytest.raises(AlignError, match=said):
        parse_seeds(text, for_tuning=for_tuning)


def test_seeds_are_shown_in_words() -> None:
    assert shown_seeds([3]) == "seed 3"
    assert shown_seeds([0, 1, 2]) == "seeds 0 to 2"
    assert shown_seeds([3, 4, 7]) == "seeds 3, 4, 7"


@pytest.mark.parametrize(
    ("text", "for_tuning"), [("10", False), ("1", False), ("3", True), ("3,4,7", False), ("3,", False)]
)
def test_seeds_are_written_as_they_are_read(text: str, for_tuning: bool) -> None:
    assert written_seeds(parse_seeds(text, for_tuning=for_tuning)) == text
