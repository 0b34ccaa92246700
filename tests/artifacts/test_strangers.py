"""Rows of another kind than what is asked for: said once, with what to do with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from align_cli.artifacts.records import Completion, Evaluation, Preference, Record
from align_cli.artifacts.store import parse_records
from align_cli.errors import MAX_ROWS, DataError

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
EVALUATION = Evaluation(1, "p", 2, None, None, {}, {"mean": 0.0}, {"mean": 1.0}, 1.0, 0.5, None, {"temperature": 1.0})
ROWS: dict[str, dict[str, Any]] = {
    "preferences": Preference(**PAIR).to_dict(),
    "implicit pairs": {"chosen": [{"role": "user", "content": "a"}], "rejected": []},
    "evaluation": EVALUATION.to_dict(),
    "figures": {"step": 1, "loss": 0.5, "grad_norm": 1.0},
    "ledger": {"event": "start", "stage": "train", "time": "now"},
    "demonstrations": {"prompt": "a", "completion": "b"},
    "conversations": {"messages": [{"role": "user", "content": "a"}]},
    "prompts": {"prompt": "a"},
}


def refused(kind: type[Record], text: str) -> DataError:
    with pytest.raises(DataError) as caught:
        parse_records(text.splitlines(keepends=True), kind, "rows.jsonl")
    return caught.value


@pytest.mark.parametrize(
    ("kind", "rows", "words", "hint"),
    [
        (Completion, "preferences", "preferences, which are labelled", "align train RECIPE --preferences rows.jsonl"),
        (Completion, "implicit pairs", "a data set's pairs", "data.preferences"),
        (Completion, "evaluation", "an evaluation", "give it what align generate writes"),
        (Completion, "figures", "a training's figures", "give it what align generate writes"),
        (Completion, "demonstrations", "demonstrations", "data.demonstrations"),
        (Completion, "conversations", "conversations", "data.prompts"),
        (Completion, "prompts", "prompts", "sample them: align generate RECIPE"),
        (Preference, "completion", "completions", "label them first: align label RECIPE -i rows.jsonl"),
        (Preference, "implicit pairs", "a data set's pairs", "data.preferences"),
        (Preference, "evaluation", "an evaluation", "give it what align label writes"),
        (Preference, "ledger", "a run's ledger", "give it what align label writes"),
        (Preference, "prompts", "prompts", "data.prompts"),
        (Preference, "demonstrations", "demonstrations", "policy.sft.dataset"),
    ],
)
def test_rows_of_another_kind_are_recognised(
    kind: type[Record], rows: str, words: str, hint: str, make_completion: Callable[..., Completion]
) -> None:
    row = ROWS.get(rows) or asdict(make_completion())
    line = json.dumps(row) + "\n"
    for text in (line * 30, json.dumps([row] * 3), json.dumps(row, indent=2)):
        (fault,) = refused(kind, text).faults
        assert fault.what.startswith(f"these are {words}")
        assert hint in fault.hint
        assert fault.where == "rows.jsonl"


@pytest.mark.parametrize("row", [{**PAIR, "label": 2}, {"prompt": "a", "chosen": "b"}, {}, {"answer": 1}])
def test_rows_that_are_meant_to_be_the_right_ones_and_are_broken_are_told_by_their_lines(row: dict[str, Any]) -> None:
    (fault,) = refused(Preference, json.dumps(row) + "\n").faults
    assert fault.where == "rows.jsonl:1"
    assert fault.what.startswith("key '")


WITHOUT_A_PROMPT = [{"prompt": "a", name: "b"} for name in ("chosen", "rejected", "label")]


@pytest.mark.parametrize("row", WITHOUT_A_PROMPT, ids=lambda row: list(row)[1])
def test_rows_with_a_part_of_a_pair_are_no_prompts(row: dict[str, Any]) -> None:
    (fault,) = refused(Completion, json.dumps(row) + "\n").faults
    assert fault.what.startswith("key '")


@pytest.mark.parametrize("wrong", ["prompt", "completion", "completion_ids"])
def test_completions_with_a_broken_field_are_still_completions(
    wrong: str, make_completion: Callable[..., Completion]
) -> None:
    (fault,) = refused(Completion, json.dumps({**asdict(make_completion()), wrong: {}}) + "\n").faults
    assert fault.where == "rows.jsonl:1" and f"'{wrong}'" in fault.what


@pytest.mark.parametrize("row", [{**PAIR, "prompt": 1}, {"prompt": "a", "completion": "b", "completion_ids": 1}])
def test_rows_with_no_more_than_what_makes_them_the_right_ones_are_told_by_their_lines(row: dict[str, Any]) -> None:
    kind = Preference if "chosen" in row else Completion
    assert {fault.where for fault in refused(kind, json.dumps(row)).faults} == {"rows.jsonl:1"}


@pytest.mark.parametrize("text", ["[]", "7", '"text"', "[7]", "{", "[[]]"])
def test_text_that_is_no_row_at_all_is_told_by_its_line(text: str) -> None:
    (fault,) = refused(Preference, text + "\n").faults
    assert fault.where == "rows.jsonl:1" and "these are" not in fault.what


def test_what_no_command_makes_is_not_compared_with_the_rows_of_others() -> None:
    (fault,) = refused(Evaluation, json.dumps(PAIR) + "\n").faults
    assert fault.what.startswith("key '")


def test_rows_from_a_pipe_are_told_to_lie_in_some_file(make_completion: Callable[..., Completion]) -> None:
    with pytest.raises(DataError) as caught:
        parse_records([json.dumps(asdict(make_completion()))], Preference, "<stdin>")
    (fault,) = caught.value.faults
    assert (fault.where, fault.hint) == ("<stdin>", "label them first: align label RECIPE -i FILE")


def test_a_row_of_another_kind_among_the_right_ones_is_told_by_its_line() -> None:
    (fault,) = refused(Preference, f"{json.dumps(PAIR)}\n{json.dumps(ROWS['prompts'])}\n").faults
    assert (fault.what, fault.where) == ("key 'chosen' is missing", "rows.jsonl:2")


@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_is_known_by_its_first_row_however_it_is_laid_out(indent: int | None) -> None:
    text = json.dumps([ROWS["demonstrations"]] * 2, indent=indent)
    assert "these are demonstrations" in str(refused(Preference, text))


@pytest.mark.parametrize("before", [PAIR, {**PAIR, "label": "high"}], ids=["a pair", "a broken line"])
def test_only_the_first_row_says_that_all_are_of_another_kind(before: dict[str, Any]) -> None:
    told = str(refused(Preference, "".join(json.dumps(row) + "\n" for row in (before, ROWS["prompts"]))))
    assert "key 'chosen' is missing" in told and "these are" not in told


def test_reading_stops_where_no_more_faults_would_be_told() -> None:
    lines = iter(["{}\n"] * (MAX_ROWS + 5))
    with pytest.raises(DataError):
        parse_records(lines, Preference, "rows.jsonl")
    assert len(list(lines)) == 5
