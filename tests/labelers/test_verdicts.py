"""Verdicts of people: known by content whatever the order, kept across processes, taken back, and put together."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_cli.artifacts.answers import Answers
from align_cli.labelers.verdicts import Pair, Verdicts, as_read

PAIRS = [Pair.of(f"prompt {number}", f"answer a{number}", f"answer b{number}") for number in range(40)]


def test_a_pair_is_the_same_whichever_answer_comes_first() -> None:
    one, other = Pair.of("p", "b", "a"), Pair.of("p", "a", "b")
    assert one == other
    assert one.id == other.id != Pair.of("q", "a", "b").id
    assert Pair.of([{"role": "user", "content": "p"}], "a", [{"role": "assistant", "content": "b"}]) == one
    assert Pair.of("p", "a", "a").is_alike


def test_a_conversation_is_read_with_its_roles_and_all_that_it_holds() -> None:
    assert as_read([{"role": "user", "content": "Why?"}], "user") == "Why?"
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    assert as_read(turns, "user") == "system: Be kind.\n\nuser: Why?"
    calls = [{"role": "assistant", "content": None, "tool_calls": [{"name": "søk"}]}]
    assert as_read(calls, "assistant") == 'assistant: \n{"tool_calls": [{"name": "søk"}]}'
    parts = [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    assert "Why?" in as_read(parts, "user")
    assert Pair.of("p", "\ud800", "b").id.startswith("pair-")


def test_sides_and_order_derive_from_content_and_reader() -> None:
    sides = [pair.sides("ann") for pair in PAIRS]
    assert sides == [pair.sides("ann") for pair in PAIRS]
    assert {("first", "second"), ("second", "first")} == set(sides)
    assert sides != [pair.sides("bob") for pair in PAIRS]
    verdicts = Verdicts(Answers())
    order = verdicts.waiting_for("ann", PAIRS)
    assert order != PAIRS
    assert sorted(order) == sorted(PAIRS)
    assert order == verdicts.waiting_for("ann", PAIRS[::-1])
    assert [pair for pair in order if pair in PAIRS[:20]] == verdicts.waiting_for("ann", PAIRS[:20])
    assert order != verdicts.waiting_for("bob", PAIRS)


def test_what_was_said_is_there_in_the_next_process_and_what_was_taken_back_is_not(tmp_path: Path) -> None:
    verdicts, file = Verdicts(Answers(tmp_path / "answers.jsonl")), tmp_path / "answers.jsonl"
    verdicts.keep(PAIRS[0], "ann", "first", left="second")
    verdicts.keep(PAIRS[1], "ann", "tie", left="first")
    verdicts.keep(PAIRS[2], "ann", "skip", left="first")
    verdicts.take_back(PAIRS[1], "ann")
    for there in (verdicts, Verdicts(Answers(file))):
        assert [there.of(pair) for pair in PAIRS[:3]] == [{"ann": "first"}, {}, {"ann": "skip"}]
        assert [there.mean(pair) for pair in PAIRS[:3]] == [1.0, None, None]
        assert there.left_share(PAIRS) == 0.0
    Verdicts(Answers(file)).keep(PAIRS[1], "ann", "second", left="first")
    file.write_bytes(file.read_bytes()[:-5])  # a kill tore the last line: that pair waits again, no other
    assert [Verdicts(Answers(file)).of(pair) for pair in PAIRS[:3]] == [{"ann": "first"}, {}, {"ann": "skip"}]


def test_who_waits_is_who_has_said_nothing_and_pairs_that_nobody_judged_come_first() -> None:
    verdicts = Verdicts(Answers())
    for pair in PAIRS[:5]:
        verdicts.keep(pair, "ann", "skip" if pair == PAIRS[0] else "tie", left="first")
    assert set(verdicts.waiting_for("ann", PAIRS)) == set(PAIRS[5:])
    assert set(verdicts.waiting_for("ann", PAIRS, with_skipped=True)) == {PAIRS[0], *PAIRS[5:]}
    waiting = verdicts.waiting_for("bob", PAIRS)
    assert set(waiting[-5:]) == set(PAIRS[:5])
    assert len(waiting) == 40


def test_several_people_come_to_their_mean_and_a_skip_is_no_verdict() -> None:
    verdicts = Verdicts(Answers())
    for name, said in (("ann", "first"), ("bob", "tie"), ("cyd", "second"), ("dan", "skip")):
        verdicts.keep(PAIRS[0], name, said, left="first")  # type: ignore[arg-type]
    assert verdicts.mean(PAIRS[0]) == pytest.approx(0.5)
    verdicts.take_back(PAIRS[0], "cyd")
    assert verdicts.mean(PAIRS[0]) == pytest.approx(0.75)


def test_agreement_is_over_the_pairs_that_both_gave_verdicts_on() -> None:
    verdicts = Verdicts(Answers())
    for number, (anns, bobs) in enumerate(
        [("first", "first"), ("first", "second"), ("second", "second"), ("tie", "skip"), ("first", None)]
    ):
        verdicts.keep(PAIRS[number], "ann", anns, left="first")  # type: ignore[arg-type]
        if bobs is not None:
            verdicts.keep(PAIRS[number], "bob", bobs, left="first")  # type: ignore[arg-type]
    ((names, found),) = verdicts.agreements(PAIRS).items()
    assert names == ("ann", "bob")
    assert (found.num_items, found.agreement) == (3, pytest.approx(2 / 3))
    assert found.kappa == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert verdicts.agreements(PAIRS[4:]) == {}
