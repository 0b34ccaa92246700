"""The rewards of a form and of a length."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_cli.errors import LabelerError
from align_cli.rewards import AnswerFormat, TargetLength


def scores(reward: Any, *completions: str) -> list[float]:
    return list(reward(prompts=["p"] * len(completions), completions=list(completions)))


SOUND = "<think>\nfirst, then\n</think>\n<answer>42</answer>\n"


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (SOUND, True),
        ("  " + SOUND, True),
        ("<think>a < b and c > d</think><answer>x</answer>", True),
        ("<think>a</think>", False),
        ("<answer>x</answer><think>a</think>", False),
        ("<think></think><answer>x</answer>", False),
        ("<think>a</think><answer> \n</answer>", False),
        (SOUND + "and more", False),
        ("so <think>a</think><answer>x</answer>", False),
        ("<think>a</think> then <answer>x</answer>", False),
        ("<think>a</think><answer>x</answer><answer>y</answer>", False),
        ("<think>a<think>b</think><answer>x</answer>", False),
        ("<think>a<answer>x</answer>", False),
        ("", False),
    ],
)
def test_sections_stand_in_their_order_and_nothing_else(text: str, holds: bool) -> None:
    assert scores(AnswerFormat(sections=["think", "answer"]), text) == [float(holds)]


def test_a_pattern_matches_the_whole_answer() -> None:
    assert scores(AnswerFormat(pattern=r"Yes\b.*|No"), "Yes, it\nis", "No", "No, it is not", "So, Yes") == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("text", "is_json", "has_keys"),
    [
        ('{"a": 1, "b": null}', True, True),
        ('```json\n{"a": 1, "b": 2}\n```\n', True, True),
        ('{"a": 1}', True, False),
        ("[1, 2]", True, False),
        ("3", True, False),
        ('{"a": NaN, "b": 1}', False, False),
        ('{"a": 1, "b": 2} and more', False, False),
        ('Here:\n```json\n{"a": 1, "b": 2}\n```', False, False),
        ("{'a': 1}", False, False),
        ("[" * 100_000, False, False),
        ("1" * 10_000, False, False),
        ("", False, False),
    ],
)
def test_json_alone_or_in_one_block(text: str, is_json: bool, has_keys: bool) -> None:
    assert scores(AnswerFormat(json=True), text) == [float(is_json)]
    assert scores(AnswerFormat(keys=["a", "b"]), text) == [float(has_keys)]


def test_the_score_is_the_share_of_what_holds() -> None:
    both = AnswerFormat(pattern=r".{0,50}", sections=["think", "answer"])
    assert scores(both, SOUND, "short", "<think>" + SOUND * 2) == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"), [({}, "nothing is asked"), ({"pattern": "("}, "the pattern is no regular expression")]
)
def test_what_asks_for_nothing_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelerError, match=message):
        AnswerFormat(**arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"low": 2}, [0.0, 0.5, 1.0, 0.5, 0.0]),
        ({"low": 1, "high": 2}, [0.0, 1.0, 1.0, 0.5, 0.0]),
        ({"low": 3, "below": 2, "above": 1}, [0.0, 0.0, 0.5, 1.0, 0.0]),
        ({"low": 0, "high": 1, "above": 4}, [1.0, 1.0, 0.75, 0.5, 0.25]),
        ({"low": 2, "unit": "characters", "above": 10}, [0.0, 0.5, 0.9, 0.6, 0.5]),
    ],
)
def test_lengths_score_by_plateau_and_slopes(arguments: dict[str, Any], expected: list[float]) -> None:
    texts = ["", "a", "b c", "d  e\nf", "g h i j"]
    assert scores(TargetLength(**arguments), *texts) == pytest.approx(expected)


@given(
    st.floats(0, 50),
    st.floats(0, 50),
    st.floats(0.1, 50),
    st.floats(0.1, 50),
    st.lists(st.integers(0, 200), min_size=2),
)
def test_a_length_farther_away_never_scores_more(
    low: float, width: float, below: float, above: float, counts: list[int]
) -> None:
    if low + width == 0:
        return
    reward = TargetLength(low, low + width, below, above)
    by_length = [(count, *scores(reward, "w " * count)) for count in sorted(counts)]
    assert all(0 <= score <= 1 and math.isfinite(score) for _, score in by_length)
    short = [score for count, score in by_length if count <= low]
    long = [score for count, score in by_length if count >= low + width]
    assert short == sorted(short) and long == sorted(long, reverse=True)
    assert all(score == 1 for count, score in by_length if low <= count <= low + width)


@pytest.mark.parametrize(
    "arguments",
    [
        {"low": -1},
        {"low": 3, "high": 2},
        {"low": 0},
        {"low": 1, "below": 0},
        {"low": 1, "above": -1},
        {"low": math.nan},
    ],
)
def test_what_is_no_length_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(LabelerError, match="are no lengths"):
        TargetLength(**arguments)
    with pytest.raises(LabelerError, match="unit is 'lines'"):
        TargetLength(1, unit="lines")  # type: ignore[arg-type]
