"""Held-out responses as columns, and which of them are shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from align_cli.artifacts.records import Completion
from align_cli.report import samples
from align_cli.report.samples import answers_of, chosen_answers, sample_columns, shown_text

Make = Callable[..., Completion]


def test_every_response_stands_in_the_column_of_its_round_and_the_row_of_its_prompt(make_completion: Make) -> None:
    first = [
        make_completion(7, scores={"a": 1.25, "b": -2.0}),
        make_completion(3, finish_reason="length", logps=[-0.123, -4.0, 0.0]),
    ]
    later = [make_completion(3, completion=" other", completion_ids=[5], logps=[-1.0], num_tokens=1)]
    found = sample_columns({0: first, 2: later}, 2, "<{}>".format)
    assert found is not None
    assert found["prompts"] == ["prompt 7 :", "prompt 3 :"]
    assert (found["rows"], found["rounds"], found["scorers"]) == ([7, 3], [0, 2], ["a", "b"])
    assert (found["num_prompts"], found["num_rounds"]) == (2, 2)
    assert found["tokens"] == {str(one): f"<{one}>" for one in (1, 5, 10, 23, 27)}
    assert found["by_round"][0] == {
        "texts": [" answer 0 .", " answer 0 ."],
        "finished": [1, 0],
        "num_tokens": [3, 3],
        "scores": {"a": [1.25, None], "b": [-2.0, None]},
        "ids": [[10, 27, 1], [10, 23, 1]],
        "logps": [[-50, -50, -50], [-12, -400, 0]],
    }
    assert found["by_round"][1]["texts"] == [None, " other"]
    assert found["by_round"][1]["logps"] == [None, [-100]]


def test_without_responses_there_are_no_columns() -> None:
    assert sample_columns({}, None, None) is None
    assert sample_columns({1: []}, 1, None) is None


def test_of_too_many_prompts_those_that_moved_most_are_kept_and_the_first(
    make_completion: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = {11: 5.0, 13: -5.0}
    before = [make_completion(row, scores={"a": 0.0}) for row in range(20)]
    after = [make_completion(row, scores={"a": moved.get(row, 0.0)}) for row in range(20)]
    monkeypatch.setattr(samples, "MOST_SAMPLES", 8)
    found = sample_columns({0: before, 1: after}, 1, None)
    assert found is not None
    assert found["rows"] == [0, 1, 11, 13]
    assert found["num_prompts"] == 20
    monkeypatch.setattr(samples, "MOST_CHARS", 3 * len(" answer 0 .") * 2)
    assert len((sample_columns({0: before, 1: after}, 1, None) or {})["rows"]) == 3


def test_several_runs_share_the_room_of_a_page(make_completion: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_SAMPLES", 8)
    monkeypatch.setattr(samples, "MOST_TOKENS", 12)
    responses = {0: [make_completion(row) for row in range(20)]}
    alone, shared = (sample_columns(responses, 0, None, num_runs) or {} for num_runs in (1, 4))
    assert (len(alone["rows"]), len(shared["rows"])) == (8, 2)
    assert [sum(ids is not None for ids in found["by_round"][0]["ids"]) for found in (alone, shared)] == [4, 1]


def test_tokens_are_shown_of_as_many_prompts_as_there_is_room_for(
    make_completion: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MOST_TOKENS", 14)
    rounds = {number: [make_completion(row) for row in range(4)] for number in (0, 1)}
    found = sample_columns(rounds, 1, None)
    assert found is not None
    assert [[ids is not None for ids in column["ids"]] for column in found["by_round"]] == [
        [True, True, False, False]
    ] * 2
    assert [column["texts"][3] for column in found["by_round"]] == [" answer 0 ."] * 2


def test_of_too_many_rounds_the_first_the_last_and_the_chosen_one_stay(
    make_completion: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MOST_ROUNDS", 5)
    found = sample_columns({number: [make_completion(0)] for number in range(31)}, 29, None)
    assert found is not None
    assert found["rounds"] == [0, 10, 20, 29, 30]
    assert found["num_rounds"] == 31


@pytest.mark.parametrize(
    ("mode", "search", "rows"),
    [
        ("all", "", [0, 1, 2, 3]),
        ("changed", "", [1, 2, 3]),
        ("gain", "", [2, 1]),
        ("loss", "", [3]),
        ("longest", "", [3, 0, 1, 2]),
        ("unfinished", "", [1]),
        ("all", "PROMPT 2", [2]),
        ("changed", "old", [1, 2]),
    ],
)
def test_modes_and_search_choose_prompts_by_what_became_of_their_responses(
    make_completion: Make, mode: str, search: str, rows: list[int]
) -> None:
    before = [
        make_completion(row, completion=text, scores={"a": 1.0})
        for row, text in enumerate([" same", " old", " old", " ancient"])
    ]
    after = [
        make_completion(0, completion=" same", scores={"a": 1.0}),
        make_completion(1, completion=" new", scores={"a": 1.5}, finish_reason="length"),
        make_completion(2, completion=" new", scores={"a": 3.0}),
        make_completion(3, completion=" new", scores={"a": 0.0}, num_tokens=9),
    ]
    found = chosen_answers(answers_of({0: before, 4: after}), mode, search)
    assert [one.row for one in found] == rows
    assert all(list(one.by_round) == [0, 4] for one in found)


def test_a_chat_is_shown_under_its_roles_and_an_answer_alone_without() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert shown_text(chat) == "system: Be brief.\nuser: Hi"
    assert shown_text([{"role": "assistant", "content": "Hello"}]) == "Hello"
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    assert shown_text([call]) == ' {"tool_calls": [{"name": "f"}]}'
