"""What chat templates read besides role and content comes through the readers, from lists and from JSON text alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align_cli.data import read_demonstrations, read_preferences, read_prompts
from align_cli.errors import DataError

USER, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
OTHER = {"role": "assistant", "content": "hm"}
TOOLS = [{"type": "function", "function": {"name": "adder", "parameters": {}}}]
EXTRAS = {"tools": TOOLS, "chat_template_kwargs": {"enable_thinking": False}}
AS_TEXT = {key: json.dumps(value) for key, value in EXTRAS.items()}
CALL = {"type": "function", "function": {"name": "adder", "arguments": {"a": 2}}}
WRITTEN_CALL = {"type": "function", "function": {"name": "adder", "arguments": '{"a": 2}'}}


def write_lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("extras", [EXTRAS, AS_TEXT, {**EXTRAS, "tools": [json.dumps(tool) for tool in TOOLS]}])
def test_tools_and_template_arguments_come_with_a_conversation(tmp_path: Path, extras: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_prompts(write_lines(path, {"prompt": [USER], **extras})) == [{"prompt": [USER], **EXTRAS}]
    pair = {"prompt": [USER], "chosen": [REPLY], "rejected": [OTHER]}
    assert read_preferences(write_lines(path, {**pair, **extras})) == [{**pair, **EXTRAS}]
    assert read_prompts(str(path)) == [{"prompt": [USER], **EXTRAS}]
    shown = {"prompt": [USER], "completion": [REPLY], **EXTRAS}
    for row in ({"messages": [USER, REPLY]}, {"prompt": [USER], "completion": [REPLY]}, pair):
        assert read_demonstrations(write_lines(path, {**row, **extras})) == [shown]


@pytest.mark.parametrize("extras", [{"tools": None}, {"tools": []}, {"tools": ""}, {"chat_template_kwargs": {}}])
def test_what_is_empty_is_left_out(tmp_path: Path, extras: dict[str, Any]) -> None:
    assert read_prompts(write_lines(tmp_path / "p.jsonl", {"prompt": [USER], **extras})) == [{"prompt": [USER]}]


def test_a_plain_text_has_no_template_that_could_read_them(tmp_path: Path) -> None:
    assert read_prompts(write_lines(tmp_path / "p.jsonl", {"prompt": "hi", "tools": ["hammer"]})) == [{"prompt": "hi"}]


@pytest.mark.parametrize(
    ("extras", "what"),
    [
        ({"tools": "[{"}, "'tools' is text and not valid JSON at character "),
        ({"tools": {"name": "adder"}}, "'tools' is an object with 'name'; it must be a list of objects"),
        ({"tools": [3]}, "'tools[0]' is 3; it must be an object"),
        ({"tools": [{"name": "\ud800"}]}, "'tools[0].name' holds \\ud800, half of a surrogate pair, at character 0"),
        ({"chat_template_kwargs": [1]}, "'chat_template_kwargs' is a list of 1; it must be an object"),
        ({"chat_template_kwargs": '{"a": NaN}'}, "'chat_template_kwargs': NaN is no JSON number"),
    ],
)
def test_what_is_of_another_shape_is_refused(tmp_path: Path, extras: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError) as caught:
        read_prompts(write_lines(tmp_path / "p.jsonl", {"prompt": [USER], **extras}))
    assert caught.value.faults[0].what.startswith(what)


def test_messages_keep_reasoning_tool_calls_and_names(tmp_path: Path) -> None:
    thinking = {**REPLY, "reasoning_content": "two and two", "thinking": "four"}
    calling = {"role": "assistant", "content": None, "tool_calls": [WRITTEN_CALL]}
    answer = {"role": "tool", "content": "4", "tool_call_id": "1", "name": "adder"}
    (row,) = read_prompts(write_lines(tmp_path / "p.jsonl", {"prompt": [USER, thinking, calling, answer]}))
    assert row["prompt"] == [USER, thinking, {"role": "assistant", "tool_calls": [CALL]}, answer]


def test_the_columns_of_a_chat_may_be_json_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    texts = {"prompt": json.dumps([USER]), "chosen": json.dumps([REPLY]), "rejected": json.dumps(OTHER)}
    assert read_preferences(write_lines(path, texts)) == [{"prompt": [USER], "chosen": [REPLY], "rejected": [OTHER]}]
    sharegpt = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    chats = {"prompt": [USER], "messages": [USER, REPLY], "conversations": sharegpt}
    for row in ({key: json.dumps(chat)} for key, chat in chats.items()):
        assert read_prompts(write_lines(path, row)) == [{"prompt": [USER]}]
    shown = {"prompt": [USER], "completion": [REPLY]}
    assert read_demonstrations(write_lines(path, {key: json.dumps(value) for key, value in shown.items()})) == [shown]


@pytest.mark.parametrize(
    "text", ["[1, 2, 3]", "[{", '{"name": "Ann"}', "{hi}", '[{"role": "admin"}]', "[]", 'Say {"role": "user"}.']
)
def test_other_text_that_looks_like_json_stays_text(tmp_path: Path, text: str) -> None:
    assert read_prompts(write_lines(tmp_path / "p.jsonl", {"prompt": text})) == [{"prompt": text}]


@pytest.mark.parametrize("text", ['[{"role": "user", "content": "hi"}', "[{'role': 'user', 'content': 'hi'}]"])
def test_broken_messages_are_no_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="looks like messages written as JSON, and is not valid JSON at character"):
        read_prompts(write_lines(tmp_path / "p.jsonl", {"prompt": text}))


def test_the_nulls_that_fill_a_tables_gaps_are_left_out_within_messages_too(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tools = [{"name": "adder", "parameters": {"a": "int"}}, {"name": "clock", "parameters": {"zone": "text"}}]
    table = pa.Table.from_pylist([{"prompt": [USER], "tools": tools}])
    pq.write_table(table, tmp_path / "p.parquet")
    assert read_prompts(str(tmp_path / "p.parquet")) == [{"prompt": [USER], "tools": tools}]


def test_rows_know_their_places(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"})
    assert [row.where for row in read_prompts(path)] == [f"{path}:1", f"{path}:2"]
