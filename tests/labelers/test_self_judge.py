"""The policy as judge through the public labeler: what is asked with which seeds, and what becomes of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from align_cli.errors import LabelerError
from align_cli.labelers import Scorer, build_labeler
from align_cli.labelers.judge.template import read_template
from align_cli.labelers.self_judge import Conversation, Written
from align_cli.recipe.sections.labelers import SelfJudgeLabelerSection

TEMPLATE = "answer: points (\\d+)\nlowest: 0\nhighest: 9\n--- user\n{prompt}|{completion}"
USER = [{"role": "user", "content": "ask"}]

Make = Callable[..., Any]


class Says:
    """Writes what it is told to, in turn, and keeps what it was asked."""

    def __init__(self, *texts: str, seed: int = 0, ended: Any = "stop") -> None:
        self.seed, self._texts, self._ended = seed, texts, ended
        self.asked: list[str] = []
        self.seeds: list[int] = []

    def write(self, conversations: Sequence[Conversation], seeds: Sequence[int]) -> list[Written]:
        start = len(self.asked)
        self.asked += [one[-1]["content"] for one in conversations]
        self.seeds += seeds
        places = range(start, len(self.asked))
        return [Written(self._texts[place % len(self._texts)], 10, 2, self._ended) for place in places]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(writer, **keys)` is a self-judge at work; what it says to the user is in its `said`."""
    (tmp_path / "points.txt").write_text(TEMPLATE, encoding="utf-8")

    def build(writer: Says, **keys: Any) -> Any:
        section = SelfJudgeLabelerSection(kind="self_judge", template=str(tmp_path / "points.txt"), **keys)
        said: list[str] = []
        labeler: Any = build_labeler("own", section, said.append)
        labeler.writer, labeler.said = writer, said
        return labeler

    return build


def test_a_score_is_the_mean_of_the_votes_that_can_be_read(make: Make) -> None:
    writer = Says("points 3", "points 4", "none", "hm", "points 10", "")
    labeler = make(writer)
    assert isinstance(labeler, Scorer)
    assert labeler.score(["a", USER], ["b", "c"]) == [3.5, None]
    assert writer.asked == ["a|b"] * 3 + ["ask|c"] * 3


def test_votes_have_seeds_of_their_own_and_two_responses_that_read_the_same_have_the_same(make: Make) -> None:
    first, again, other = Says("points 1"), Says("points 1"), Says("points 1", seed=1)
    make(first).score(["a", "a", "b"], ["x", "x", "x"])
    assert first.seeds[:3] == first.seeds[3:6]
    assert len(set(first.seeds)) == 6
    make(again).score(["b"], ["x"])
    assert again.seeds == first.seeds[6:], "whatever else is asked"
    make(other).score(["b"], ["x"])
    assert not set(other.seeds) & set(first.seeds)


def test_a_batch_is_as_many_responses_as_have_their_votes_in_it(make: Make) -> None:
    assert [make(Says("")).batch_size, make(Says(""), votes=5).batch_size, make(Says(""), votes=99).batch_size] == [
        10, 6, 1,
    ]  # fmt: skip


def test_its_figures_are_answers_tokens_and_the_share_of_nonsense(make: Make) -> None:
    labeler = make(Says("points 3", "points 4", "none"))
    labeler.score(["a", "b"], ["c", "d"])
    assert labeler.figures(labeler.take_counts()) == {
        "completions": 2, "answers": 4, "unparsable": 2, "prompt_tokens": 60, "completion_tokens": 12,
        "unparsable_share": pytest.approx(1 / 3),
    }  # fmt: skip
    assert labeler.take_counts() == {}


def test_too_much_nonsense_stops_it_and_shows_one(make: Make) -> None:
    labeler = make(Says("points 3", "I\nlike it", "points 4", "points 5"), votes=1)
    labeler.score(["a"] * 24, list("abcdefghijklmnopqrstuvwx"))
    counts = labeler.take_counts()
    with pytest.raises(LabelerError) as raised:
        labeler.check_counts(counts)
    (fault,) = raised.value.faults
    assert fault.where == "labelers.own.max_unparsable"
    assert fault.what == (
        "6 of 24 answers hold no verdict, more than max_unparsable allows (0.2); one of them: 'I like it'"
    )
    assert "is max_new_tokens enough" in fault.hint
    make(Says(""), max_unparsable=0.25).check_counts(counts)


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ("stop", []),
        ("length", ["labelers.own: answers are cut before the score; max_new_tokens may be too low"]),
        (
            "no room",
            [
                "labelers.own: some responses leave no room for max_new_tokens in the policy's context; they get no "
                "score"
            ],
        ),
    ],
)
def test_why_an_answer_has_no_score_is_told_once(make: Make, ended: str, said: list[str]) -> None:
    labeler = make(Says("", ended=ended))
    labeler.score(["a", "b"], ["c", "d"])
    assert labeler.said == said


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("It gains 1 and 2.\nScore: 2", 2.0),
        ("Score: 1? No.\n**Score:** 4/5", 4.0),
        ("score: 3.5", 3.5),
        ("Score: 6", None),
        ("It scores well.", None),
        ("<think>Score: 1</think>Score: 5", 5.0),
    ],
)
def test_its_own_template_adds_up_to_five(answer: str, score: float | None) -> None:
    assert read_template("additive", "scores", "labelers.own.template").read(answer) == score


def test_a_template_that_is_not_sound_is_told_by_its_check(make: Make, tmp_path: Path) -> None:
    labeler = make(Says(""))
    (tmp_path / "points.txt").write_text(TEMPLATE.replace("{completion}", "{first}"), encoding="utf-8")
    with pytest.raises(LabelerError, match="first"):
        labeler.check(["a"])
