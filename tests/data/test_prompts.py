from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align_cli.data.formats.base import NO_SHARED_PROMPT
from align_cli.data.preferences import read_preferences
from align_cli.data.prompts import read_prompts
from align_cli.errors import DataError

USER = {"role": "user", "content": "hi"}
REPLY = {"role": "assistant", "content": "ho"}
SYSTEM = {"role": "system", "content": "be kind"}


def write_lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "hi", "completion": "ho"}, "hi"),
        ({"prompt": [USER, REPLY]}, [USER, REPLY]),
        ({"messages": [USER]}, [USER]),
        ({"prompt": "hi", "prompt_id": "7", "messages": [USER, REPLY]}, [USER]),
        ({"messages": [SYSTEM, USER, REPLY]}, [SYSTEM, USER]),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}, [USER]),
        ({"question": "hi", "answer": "ho"}, "hi"),
        ({"turns": ["hi", "and then?"]}, [USER]),
        ({"text": "hi"}, "hi"),
        ({"system": "be kind", "question": "hi"}, [SYSTEM, USER]),
        ({"chosen": [USER, REPLY], "rejected": [USER, REPLY]}, [USER]),
    ],
)
def test_every_known_key_gives_its_prompt(tmp_path: Path, row: dict[str, Any], prompt: Any) -> None:
    assert read_prompts(write_lines(tmp_path / "p.jsonl", row)) == [{"prompt": prompt}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": [USER, REPLY], "rejected": [USER, REPLY], "messages": [USER, REPLY]},
        {"instruction": "Say hi.", "input": "", "output": "hi", "chosen": "hi", "rejected": "ho"},
        {"system": "be kind", "question": "hi", "chosen": "a", "rejected": "b"},
    ],
)
def test_a_pair_has_the_same_prompt_in_both_readers(tmp_path: Path, row: dict[str, Any]) -> None:
    path = write_lines(tmp_path / "p.jsonl", row)
    assert read_prompts(path)[0]["prompt"] == read_preferences(path)[0]["prompt"]


def test_a_text_file_holds_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"one \r\n\n  \ntwo\x0cstill two\nthree")
    assert [row["prompt"] for row in read_prompts(str(path))] == ["one ", "two\x0cstill two", "three"]


def test_a_text_file_that_is_not_utf8_is_latin1(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("café".encode("latin-1"))
    assert read_prompts(str(path)) == [{"prompt": "café"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": " \n"}, "the prompt is ' \\n'; it cannot be blank"),
        ({"prompt": 3}, "'prompt' is 3; it must be text"),
        ({"promt": "hi"}, "hint: rename 'promt' to 'prompt'"),
        ({"mesages": [USER]}, "hint: rename 'mesages' to 'messages'"),
        ({"query": "hi"}, "no known format of prompts: looked for 'messages', 'conversations',"),
        ({"messages": [REPLY]}, "'messages' holds the assistant's words alone"),
        ({"turns": []}, "'turns' is a list of 0; it must be a list with at least one turn"),
        ({}, "the row is empty"),
    ],
)
def test_a_row_without_a_usable_prompt_is_a_fault(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_prompts(write_lines(tmp_path / "p.jsonl", {"prompt": "good"}, row))
    assert message in str(caught.value)
    assert caught.value.faults[0].where.endswith("p.jsonl:2")


def test_prompts_that_cannot_be_told_are_counted(tmp_path: Path) -> None:
    good, apart = {"prompt": "p", "chosen": "a", "rejected": "b"}, {"chosen": "yes", "rejected": "no"}
    prompts = read_prompts(write_lines(tmp_path / "p.jsonl", apart, good, apart))
    assert (prompts, prompts.dropped) == ([{"prompt": "p"}], {NO_SHARED_PROMPT: 2})


def test_a_file_whose_pairs_are_all_dropped_has_no_prompt(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row holds a prompt"):
        read_prompts(write_lines(tmp_path / "p.jsonl", {"chosen": "yes", "rejected": "no"}))
