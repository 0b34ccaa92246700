"""A person as a labeler: the mean of what people said, in either order; what nobody has judged stops the stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from align_cli.artifacts.answers import Answers
from align_cli.artifacts.records import Completion
from align_cli.labelers import build_labeler
from align_cli.labelers.person import PairsWaitError, PersonLabeler
from align_cli.labelers.verdicts import Pair, Said, Verdicts
from align_cli.recipe.sections.labelers.person import PersonLabelerSection
from align_cli.stages.base import NoProgress
from align_cli.stages.opinions import Asking

PROMPTS, FIRSTS, SECONDS = ["p", "q", "r"], ["good", "bad", "same"], ["bad", "good", "same"]


class LikesGood:
    """Asks somebody who likes `good`, and remembers about what."""

    def __init__(self, at_most: int = 100) -> None:
        self.asked: list[Pair] = []
        self._at_most = at_most

    def __call__(self, pairs: Sequence[Pair], verdicts: Verdicts) -> None:
        for pair in verdicts.waiting_for("ann", pairs)[: self._at_most]:
            self.asked.append(pair)
            said: Said = "first" if pair.first == "good" else "second"
            verdicts.keep(pair, "ann", said, left="first")


def person(path: Path | None = None, asker: LikesGood | None = None) -> PersonLabeler:
    labeler = build_labeler("me", PersonLabelerSection(kind="person"), answers=Answers(path))
    assert isinstance(labeler, PersonLabeler)
    labeler.asker = asker
    return labeler


def test_it_says_what_was_said_in_either_order_and_nobody_is_asked_about_answers_that_are_alike() -> None:
    asker = LikesGood()
    labeler = person(asker=asker)
    assert labeler.gives_verdicts
    assert labeler.compare(PROMPTS, FIRSTS, SECONDS) == [1.0, 0.0, 0.5]
    assert labeler.compare(PROMPTS, SECONDS, FIRSTS) == [0.0, 1.0, 0.5]
    assert len(asker.asked) == 2


def test_a_pair_that_comes_twice_is_asked_about_once() -> None:
    asker = LikesGood()
    labeler = person(asker=asker)
    assert labeler.compare(["p", "p", "p"], ["good", "bad", "good"], ["bad", "good", "bad"]) == [1.0, 0.0, 1.0]
    assert len(asker.asked) == 1


def test_nobody_is_asked_twice_whoever_asks(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    person(file, LikesGood()).compare(PROMPTS, FIRSTS, SECONDS)
    again = LikesGood()
    assert person(file, again).compare(PROMPTS, FIRSTS, SECONDS) == [1.0, 0.0, 0.5]
    assert person(file).compare(PROMPTS, FIRSTS, SECONDS) == [1.0, 0.0, 0.5]
    assert again.asked == []


def test_pairs_that_nobody_judged_wait_and_what_was_said_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with pytest.raises(PairsWaitError) as caught:
        person(file).compare(PROMPTS, FIRSTS, SECONDS)
    (fault,) = caught.value.faults
    assert (fault.where, fault.what) == ("labelers.me", "2 of 2 pairs wait for a person's verdict")
    with pytest.raises(PairsWaitError, match="1 of 2 pairs") as caught:
        person(file, LikesGood(at_most=1)).compare(PROMPTS, FIRSTS, SECONDS)
    assert (caught.value.labeler, caught.value.num_waiting) == ("me", 1)
    rest = LikesGood()
    assert person(file, rest).compare(PROMPTS, FIRSTS, SECONDS) == [1.0, 0.0, 0.5]
    assert len(rest.asked) == 1


def test_a_pair_that_all_have_skipped_has_no_verdict() -> None:
    labeler = person()
    pair = Pair.of("p", "good", "bad")
    Verdicts(labeler.answers).keep(pair, "ann", "skip", left="first")
    assert labeler.compare(["p"], ["good"], ["bad"]) == [None]
    Verdicts(labeler.answers).keep(pair, "bob", "tie", left="first")
    assert labeler.compare(["p"], ["good"], ["bad"]) == [0.5]


def test_a_stage_asks_about_all_pairs_at_once_and_has_the_figures(make_completion) -> None:  # type: ignore[no-untyped-def]
    labeler, pairs = person(), []
    for number in range(6):
        one: Completion = make_completion(number, 0, completion="good")
        other: Completion = make_completion(number, 1, completion="bad")
        pairs.append((one, other))
        pair, verdicts = Pair.of(one.prompt, "good", "bad"), Verdicts(labeler.answers)
        verdicts.keep(pair, "ann", "second", left="first" if number < 2 else "second")
        verdicts.keep(pair, "bob", "second" if number < 4 else "first", left="second")
    opinions = Asking(NoProgress()).verdicts(labeler, pairs, "verdicts")
    assert opinions.values == [1.0] * 4 + [0.5] * 2
    figures = opinions.figures["me"]
    assert (figures["pairs"], figures["annotators"], figures["ties"], figures["skipped"]) == (6, 2, 2, 0)
    assert figures["left_share"] == pytest.approx(8 / 12)
    assert (figures["judged by ann, bob"], figures["agreement of ann, bob"]) == (6, pytest.approx(4 / 6))
    assert figures["kappa of ann, bob"] == pytest.approx(0.0)
