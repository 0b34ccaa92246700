"""Every format: its example, what it recognises, what its rows say, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align_cli.data import Choices, read_demonstrations, read_preferences, read_prompts
from align_cli.data.faults import RowError
from align_cli.data.formats import FORMATS, format_of
from align_cli.data.formats.base import (
    EQUAL_SCORES,
    NO_ANSWER,
    ONE_ANSWER,
    WANTED,
    WRONG_ANSWERS,
    Answer,
    Exchange,
    Format,
    examples_of,
)
from align_cli.errors import DataError

READERS: dict[str, Any] = {
    "prompts": read_prompts,
    "pairs": read_preferences,
    "demonstrations": read_demonstrations,
}
CRITERIA = {"UltraFeedback": "helpfulness", "PKU-SafeRLHF": "safer", "HelpSteer": "helpfulness"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def write(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs_of(folder: Path, *rows: Any, **choices: Any) -> list[tuple[Any, ...]]:
    """Prompt, chosen, rejected and label of each pair."""
    read = read_preferences(write(folder, *rows), choices=Choices(**choices))
    return [(row["prompt"], row["chosen"], row["rejected"], row.get("label")) for row in read]


def dropped_of(folder: Path, *rows: Any, **choices: Any) -> dict[str, int]:
    return read_preferences(write(folder, *rows), choices=Choices(**choices)).dropped


def fault_of(folder: Path, *rows: Any, **choices: Any) -> Any:
    with pytest.raises(DataError) as caught:
        read_preferences(write(folder, *rows), choices=Choices(**choices))
    return caught.value.faults[0]


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_each_formats_example_is_three_lines_and_is_read_by_that_format(known: Format, tmp_path: Path) -> None:
    rows = examples_of(known)
    assert len(known.example.splitlines()) == 3
    if known.is_refused:
        with pytest.raises(DataError, match="answers to a benchmark"):
            read_prompts(write(tmp_path, *rows))
        return
    choices = Choices(criterion=CRITERIA.get(known.name))
    for wanted, read in READERS.items():
        if wanted in known.gives and not (known.name == "KTO" and wanted == "prompts"):
            found = read(write(tmp_path, *rows), choices=choices)
            assert {row.name for row in found} == {known.name}


def test_names_of_formats_differ() -> None:
    assert len({known.name for known in FORMATS}) == len(FORMATS)


def test_a_newcomer_is_one_object_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Riddles(Format):
        name, fields, example = "riddles", "`riddle` and `solution`", ""

        def recognises(self, row: Any, wanted: Any) -> bool:
            return "riddle" in row

        def exchanges(self, row: Any, wanted: Any, choices: Any) -> Any:
            yield Exchange(row["riddle"], [Answer(row["solution"], 1.0), Answer(row["trap"], 0.0)])

    monkeypatch.setattr("align_cli.data.formats.FORMATS", (*FORMATS, Riddles()))
    row = {"riddle": "What has keys?", "solution": "A piano.", "trap": "A house."}
    assert pairs_of(tmp_path, row) == [("What has keys?", "A piano.", "A house.", None)]
    assert read_prompts(write(tmp_path, row)) == [{"prompt": "What has keys?"}]
    assert read_demonstrations(write(tmp_path, row)) == [{"prompt": "What has keys?", "completion": "A piano."}]


def test_an_unknown_row_is_told_what_was_looked_for_and_what_it_holds(tmp_path: Path) -> None:
    fault = fault_of(tmp_path, {"query": "a", "docs": []})
    assert fault.what.startswith("no known format of pairs: looked for 'chosen', 'rejected', ")
    assert fault.what.endswith("; found 'query', 'docs'")
    assert "docs/data.md" in fault.hint


def rated(response: str, **ratings: Any) -> dict[str, Any]:
    aspects = {name: {"Rating": str(rating), "Rationale": "so"} for name, rating in ratings.items()}
    return {"response": response, "model": "m", "annotations": aspects, "overall_score": 7.5, "fine-grained_score": 4}


ULTRA = {
    "source": "evol",
    "instruction": "Name a colour.",
    "completions": [
        rated("Blue.", helpfulness=5, honesty=1),
        rated("No.", helpfulness=1, honesty=5),
        rated("Red", helpfulness=3, honesty=5),
        rated("?", helpfulness="N/A", honesty=2),
    ],
}


def test_ultrafeedback_is_compared_by_the_criterion_that_is_chosen(tmp_path: Path) -> None:
    assert pairs_of(tmp_path, ULTRA, criterion="helpfulness") == [("Name a colour.", "Blue.", "No.", None)]
    assert pairs_of(tmp_path, ULTRA, criterion="honesty") == [("Name a colour.", "No.", "Blue.", None)]
    assert [pair[1:3] for pair in pairs_of(tmp_path, ULTRA, criterion="helpfulness", pairs="all")] == [
        ("Blue.", "Red"),
        ("Blue.", "No."),
        ("Red", "No."),
    ]
    with pytest.raises(DataError, match=rf"no row is a pair \({EQUAL_SCORES}: 1\)"):
        pairs_of(tmp_path, ULTRA, criterion="overall_score")
    assert read_prompts(write(tmp_path, ULTRA)) == [{"prompt": "Name a colour."}]
    (shown,) = read_demonstrations(write(tmp_path, ULTRA), choices=Choices("helpfulness"))
    assert shown["completion"] == "Blue."


def test_a_missing_choice_is_a_fault_that_lists_what_there_is(tmp_path: Path) -> None:
    fault = fault_of(tmp_path, ULTRA)
    assert fault.what.startswith("answers are judged by 'helpfulness', 'honesty', 'overall_score', ")
    assert fault.hint == "set data.criterion to helpfulness or honesty or overall_score or fine-grained_score"
    fault = fault_of(tmp_path, ULTRA, criterion="helpfullness")
    assert fault.what.startswith("data.criterion is 'helpfullness'; answers are judged by 'helpfulness',")
    assert fault.hint == "did you mean helpfulness?"


SAFE = {
    "prompt": "How do I open a lock?",
    "response_0": "With hairpins.",
    "response_1": "Call a locksmith.",
    "is_response_0_safe": False,
    "better_response_id": 0,
    "safer_response_id": 1,
}


def test_safe_rlhf_is_compared_by_what_is_helpful_or_by_what_is_safer(tmp_path: Path) -> None:
    prompt = SAFE["prompt"]
    assert pairs_of(tmp_path, SAFE, criterion="helpful") == [(prompt, "With hairpins.", "Call a locksmith.", None)]
    assert pairs_of(tmp_path, SAFE, criterion="safer") == [(prompt, "Call a locksmith.", "With hairpins.", None)]
    assert fault_of(tmp_path, SAFE).hint == "set data.criterion to helpful or safer"
    assert read_prompts(write(tmp_path, SAFE)) == [{"prompt": prompt}]
    assert fault_of(tmp_path, {**SAFE, "safer_response_id": 2}, criterion="safer").what == (
        "'safer_response_id' is 2; it must be 0 or 1"
    )


ARENA = {"prompt": "p", "response_a": "a", "response_b": "b", "model_a": "x", "model_b": "y"}
TALKS = {"conversation_a": [user("p"), bot("a")], "conversation_b": [user("p"), bot("b")]}


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({**ARENA, "winner": "model_a"}, ("p", "a", "b", None)),
        ({**ARENA, "winner": "B"}, ("p", "b", "a", None)),
        ({**ARENA, "winner": "tie (bothbad)"}, ("p", "a", "b", 0.5)),
        ({**ARENA, "winner_model_a": 0, "winner_model_b": "1", "winner_tie": 0}, ("p", "b", "a", None)),
        ({**ARENA, "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}, ("p", "a", "b", 0.5)),
        ({**TALKS, "winner": "model_b", "turn": 1}, ([user("p")], [bot("b")], [bot("a")], None)),
        (
            {"prompt": '["p"]', "response_a": '["a"]', "response_b": "[null]", "winner": "model_a"},
            ([user("p")], [bot("a")], [bot("")], None),
        ),
        ({"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": -2}, ("p", "a", "b", None)),
        (
            {"context": [user("p")], "response1": "a", "response2": "b", "overall_preference": 3},
            ([user("p")], [bot("b")], [bot("a")], None),
        ),
        ({"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 0}, ("p", "a", "b", 0.5)),
    ],
)
def test_two_answers_and_their_winner_are_a_pair(tmp_path: Path, row: dict[str, Any], pair: tuple[Any, ...]) -> None:
    assert pairs_of(tmp_path, row) == [pair]


def test_talks_that_went_different_ways_are_left_out(tmp_path: Path) -> None:
    apart = {
        "conversation_a": [user("p"), bot("a"), user("q"), bot("c")],
        "conversation_b": [user("p"), bot("b"), user("q"), bot("d")],
    }
    rows = {**TALKS, "winner": "model_a"}, {**apart, "winner": "model_a"}
    assert dropped_of(tmp_path, *rows) == {"prompts of chosen and rejected differ": 1}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({**ARENA, "winner": "nobody"}, "'winner' is 'nobody'; it must be one of model_a,"),
        ({**ARENA, "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 0}, "0 of winner_model_a,"),
        ({**ARENA, "prompt": '["p", "q"]', "winner": "tie"}, "'prompt' has 2 turns, and the responses 1 and 1"),
    ],
)
def test_a_winner_that_nobody_knows_is_a_fault(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    assert fault_of(tmp_path, row).what.startswith(what)


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 3, 2]}, ("p", "b", "a", None)),
        ({"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 3, 2]}, ("p", "a", "b", None)),
        ({"question": "p", "answers": [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1}]}, ("p", "b", "a", None)),
        (
            {"prompt": [user("p")], "completions": [{"text": "a", "score": 0.1}, {"text": "b", "score": "0.2"}]},
            ([user("p")], [bot("b")], [bot("a")], None),
        ),
        (
            {"instruction": "p", "candidates": [bot("a"), [bot("b")]], "rewards": [0, 1]},
            ([user("p")], [bot("b")], [bot("a")], None),
        ),
    ],
)
def test_scored_and_ranked_lists_give_the_best_against_the_worst(
    tmp_path: Path, row: dict[str, Any], pair: tuple[Any, ...]
) -> None:
    assert pairs_of(tmp_path, row) == [pair]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (
            {"responses": ["a", "b"], "scores": [1]},
            "'scores' is a list of 1; it must be a list of 2, as 'responses' is",
        ),
        ({"responses": ["a", "b"], "scores": [1, "good"]}, "'scores[1]' is 'good'; it must be a number"),
        ({"responses": ["a", "b"], "scores": [1, None]}, "'scores[1]' is null; it must be a number"),
        ({"responses": [{"text": "a", "score": 1}, "b"]}, "'responses[1]' is 'b'; it must be an object"),
        ({"responses": [{"text": "a", "score": 1}, {"text": "b"}]}, "'responses[1]' has none of 'score', 'reward',"),
        ({"responses": [{"score": 1}]}, "'responses[0]' has none of 'text', 'response',"),
    ],
)
def test_a_list_without_its_numbers_is_a_fault(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    assert fault_of(tmp_path, {"prompt": "p", **row}).what.startswith(what)


def test_too_few_scored_answers_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "responses": texts, "scores": scores} for texts, scores in (("ab", [1, 1]), ("a", [1]))]
    rows = [{**row, "responses": list(row["responses"])} for row in rows]
    good = {"prompt": "p", "responses": ["a", "b"], "scores": [0, 1]}
    assert dropped_of(tmp_path, *rows, {**rows[0], "responses": [], "scores": []}, good) == {
        EQUAL_SCORES: 1,
        ONE_ANSWER: 1,
        NO_ANSWER: 1,
    }


def kto(prompt: str, answer: str, label: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": answer, "label": label}


def test_kto_rows_are_paired_by_prompt_and_shown_where_they_are_good(tmp_path: Path) -> None:
    rows = [kto("p", "bad", False), kto("q", "alone", True), kto("p", "good", True), kto("p", "worse", 0)]
    assert pairs_of(tmp_path, *rows) == [("p", "good", "bad", None)]
    assert pairs_of(tmp_path, *rows, pairs="all") == [("p", "good", "bad", None), ("p", "good", "worse", None)]
    shown = read_demonstrations(write(tmp_path, *rows))
    assert [row["completion"] for row in shown] == ["alone", "good"]
    assert shown.dropped == {WRONG_ANSWERS: 2}
    assert [row["prompt"] for row in read_prompts(write(tmp_path, *rows))] == ["p", "q", "p", "p"]


def test_a_pair_of_several_rows_stands_at_the_first_and_keeps_its_tools(tmp_path: Path) -> None:
    tools = [{"name": "add"}]
    talks = [{"messages": [user("p"), bot(text)], "label": text == "a", "tools": tools} for text in "ab"]
    (row,) = read_preferences(write(tmp_path, kto("q", "x", True), *talks))
    assert row.where.endswith("rows.jsonl:2")
    assert row == {"prompt": [user("p")], "chosen": [bot("a")], "rejected": [bot("b")], "tools": tools}


def test_helpsteer_rows_are_paired_by_prompt_and_criterion(tmp_path: Path) -> None:
    def steer(answer: str, helpfulness: Any, verbosity: int) -> dict[str, Any]:
        return {"prompt": "p", "response": answer, "helpfulness": helpfulness, "verbosity": verbosity}

    rows = steer("a", 4, 0), steer("b", 1, 3)
    assert pairs_of(tmp_path, *rows, criterion="helpfulness") == [("p", "a", "b", None)]
    assert pairs_of(tmp_path, *rows, criterion="verbosity") == [("p", "b", "a", None)]
    fault = fault_of(tmp_path, *rows)
    assert fault.what.startswith("answers are judged by 'helpfulness', 'verbosity', ") and fault.what.endswith(": 2")
    assert fault_of(tmp_path, steer("a", "much", 1), criterion="helpfulness").what == (
        "'helpfulness' is 'much'; it must be a number"
    )


def said(message_id: str, parent: str | None, text: str, **fields: Any) -> dict[str, Any]:
    role = "prompter" if message_id.startswith("p") else "assistant"
    return {"message_id": message_id, "parent_id": parent, "role": role, "text": text, **fields}


TREE = [
    said("a2", "p1", "Better.", rank=0),
    said("p1", None, "Hi."),
    said("a1", "p1", "Worse.", rank=1),
    said("a3", "p1", "Rude.", rank=2, deleted=True),
    said("p2", "a2", "And?"),
    said("a4", "p2", "So.", rank=0),
]


def test_an_openassistant_tree_gives_every_prompters_message_and_compares_ranked_answers(tmp_path: Path) -> None:
    assert pairs_of(tmp_path, *TREE) == [([user("Hi.")], [bot("Better.")], [bot("Worse.")], None)]
    assert dropped_of(tmp_path, *TREE) == {ONE_ANSWER: 1}
    second = [user("Hi."), bot("Better."), user("And?")]
    assert [row["prompt"] for row in read_prompts(write(tmp_path, *TREE))] == [[user("Hi.")], second]
    shown = read_demonstrations(write(tmp_path, *TREE))
    assert [row["completion"] for row in shown] == [[bot("Better.")], [bot("So.")]]


def test_a_nested_tree_is_read_like_a_flat_one(tmp_path: Path) -> None:
    replies = [{**said(name, "p1", name, rank=rank), "replies": []} for name, rank in (("a1", 1), ("a2", 0))]
    tree = {"message_tree_id": "p1", "prompt": {**said("p1", None, "Hi."), "replies": replies}}
    assert pairs_of(tmp_path, tree) == [([user("Hi.")], [bot("a2")], [bot("a1")], None)]


@pytest.mark.parametrize(
    ("lost", "what"),
    [
        (said("a9", "p9", "Lost."), "no conversation leads to it: 'parent_id' is 'p9'"),
        (said("a9", "a9", "Round and round."), "no conversation leads to it: 'parent_id' is 'a9'"),
        (said("p1", None, "Hi again."), "'message_id' is 'p1', as of "),
        (said("a9", "p1", "Hi.") | {"message_id": [1]}, "'message_id' is a list of 1; it must be text"),
        (said("a9", "p1", "Hi.", rank="best"), "'rank' is 'best'; it must be a number"),
        (said("a9", "p1", "Hi.") | {"role": "narrator"}, "'role' is 'narrator'; it must be prompter or assistant"),
    ],
)
def test_a_message_that_belongs_nowhere_is_a_fault(tmp_path: Path, lost: dict[str, Any], what: str) -> None:
    assert fault_of(tmp_path, *TREE, lost).what.startswith(what)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"turns": [{"content": "hi"}], "cluster": "c"}, [user("hi")]),
        ({"instruction": "hi", "output": "ho", "generator": "m", "dataset": "d"}, "hi"),
    ],
)
def test_questions_of_benchmarks_are_prompts(tmp_path: Path, row: dict[str, Any], prompt: Any) -> None:
    assert read_prompts(write(tmp_path, row)) == [{"prompt": prompt}]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("FineGrainedRLHF", {"preference": [1]}),
        ("FineGrainedRLHF", {"preference": [1, 2, 3, 0, 0, 0]}),
        ("FineGrainedRLHF", {"passages": ["text"]}),
        ("marked solutions", {"small": {"solution": "x", "is_correct": "yes"}}),
        ("UltraFeedback", {"completions": [{"response": "a", "annotations": []}]}),
        ("UltraFeedback", {"completions": [{"response": "a", "annotations": {}}]}),
    ],
)
def test_what_a_format_cannot_read_is_a_fault_of_the_row(name: str, change: dict[str, Any]) -> None:
    known = next(known for known in FORMATS if known.name == name)
    row = {**examples_of(known)[0], **change}
    assert format_of(row, "pairs") is known
    with pytest.raises(RowError):
        list(known.exchanges(row, "pairs", Choices()))


def test_every_use_of_every_format_is_one_that_is_known() -> None:
    assert all({*known.gives} <= {*WANTED} for known in FORMATS)
