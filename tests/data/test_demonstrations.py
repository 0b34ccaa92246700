from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align_cli.data.demonstrations import read_demonstrations
from align_cli.errors import DataError

USER = {"role": "user", "content": "hi"}
REPLY = {"role": "assistant", "content": "ho"}
SYSTEM = {"role": "system", "content": "be kind"}
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\nSay ho.\n\n### Response:\n"
)


def write_lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"prompt": "hi", "completion": " ho"}, "hi", " ho"),
        ({"prompt": "hi", "prompt_id": "7", "messages": [USER, REPLY]}, [USER], [REPLY]),
        ({"prompt": [USER], "completion": [REPLY]}, [USER], [REPLY]),
        ({"prompt": [USER], "completion": "ho"}, [USER], [REPLY]),
        ({"prompt": "hi", "completion": [REPLY]}, [USER], [REPLY]),
        ({"messages": [SYSTEM, USER, REPLY, USER, REPLY]}, [SYSTEM, USER, REPLY, USER], [REPLY]),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}, [USER], [REPLY]),
        ({"instruction": "Say ho.", "input": "", "output": "ho"}, ALPACA, "ho"),
        ({"instruction": "Say ho.", "output": "ho", "chosen": "x", "rejected": "y"}, ALPACA, "ho"),
        ({"instruction": "Say ho.", "chosen": "x", "rejected": "y"}, ALPACA, "x"),
        ({"text": "hi ho"}, "", "hi ho"),
        ({"question": "hi", "answer": "ho"}, "hi", "ho"),
        ({"system": "be kind", "prompt": "hi", "completion": "ho"}, [SYSTEM, USER], [REPLY]),
        ({"prompt": "hi", "chosen": " ho", "rejected": " no"}, "hi", " ho"),
        ({"conversations": [USER], "chosen": REPLY, "rejected": REPLY}, [USER], [REPLY]),
        ({"chosen_messages": [USER, REPLY], "rejected_messages": [USER, REPLY]}, [USER], [REPLY]),
    ],
)
def test_every_known_format_gives_prompt_and_completion(
    tmp_path: Path, row: dict[str, Any], prompt: Any, completion: Any
) -> None:
    rows = read_demonstrations(write_lines(tmp_path / "d.jsonl", row))
    assert rows == [{"prompt": prompt, "completion": completion}]


def test_a_text_file_holds_one_text_a_line(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("one\n\ntwo\n")
    rows = read_demonstrations(str(tmp_path / "d.txt"))
    assert rows == [{"prompt": "", "completion": "one"}, {"prompt": "", "completion": "two"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hi", "completon": "ho"}, "hint: rename 'completon' to 'completion'"),
        ({"instruction": "hi", "outputs": "ho"}, "hint: rename 'outputs' to 'output'"),
        ({"txt": "hi"}, "hint: rename 'txt' to 'text'"),
        ({"turns": ["hi"]}, "hint: it is of the format 'benchmark questions', which gives prompts"),
        ({"messages": [USER]}, "the last message of 'messages' is the user's; there is no reply to learn"),
        ({"messages": [REPLY]}, "'messages' holds the assistant's words alone"),
        ({"prompt": [USER], "completion": [USER, REPLY]}, "'completion' holds user, assistant; it must be"),
        ({"prompt": "hi", "completion": 1}, "'completion' is 1; it must be text"),
        ({}, "the row is empty"),
    ],
)
def test_a_row_that_shows_nothing_is_a_fault(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_demonstrations(write_lines(tmp_path / "d.jsonl", row))
    assert message in str(caught.value)


def test_a_file_whose_pairs_are_all_dropped_shows_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row is a demonstration"):
        read_demonstrations(write_lines(tmp_path / "d.jsonl", {"chosen": "yes", "rejected": "no"}))
