"""Hostile bytes in artifacts: each is read or refused. `benchmarks/fuzz/artifacts.py` tries far more of them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align_cli.artifacts import store
from align_cli.artifacts.json_text import to_json
from align_cli.artifacts.records import Completion, Evaluation, Preference, Record
from align_cli.artifacts.store import parse_records, read_json, read_record, read_records
from align_cli.errors import DataError

NO_FIXTURE_RESET = [HealthCheck.function_scoped_fixture]
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b", "prompt_ids": [1, 2], "other_ids": [[3]], "chosen_score": 0.5}
CHAT_PAIR = {name: [{"role": "user", "content": "x"}] for name in ("prompt", "chosen", "rejected")}
PIECES = [
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\xe2\x80\xa8", b"\x1b[2J", b"null", b"1"),
    *(b'"', b",", b":", b"{", b"}", b"[", b"]", b"\\", b'"\\ud800"', b'"\\u0000"', b"NaN", b"-Infinity", b"1e999"),
    *(b"9" * 500, b"9" * 5000, b"[" * 900 + b"]" * 900, b'{"a":' * 2000, b'"round": 1.5', b'"label": true'),
]
CHANGES = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 20), st.sampled_from(PIECES) | st.binary(max_size=8)), max_size=4
)
READERS: dict[str, Callable[[Path], Any]] = {
    "records": lambda path: read_records(path, Preference),
    "pipe": lambda path: parse_records(io.TextIOWrapper(path.open("rb"), encoding="utf-8"), Preference, "<stdin>"),
    "document": lambda path: read_record(path, Preference),
}


def fault_texts(read: Callable[[], Any]) -> list[str]:
    with pytest.raises(DataError) as caught:
        read()
    return [fault.what for fault in caught.value.faults]


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=150, suppress_health_check=NO_FIXTURE_RESET)
@given(changes=CHANGES, is_chat=st.booleans())
def test_an_artifact_with_any_bytes_changed_is_read_or_refused(tmp_path: Path, reader: str, changes, is_chat) -> None:
    data = json.dumps(CHAT_PAIR if is_chat else PAIR).encode()
    for place, cut, piece in changes:
        data = data[:place] + piece + data[place + cut :]
    (tmp_path / "artifact").write_bytes(data)
    try:
        read = READERS[reader](tmp_path / "artifact")
    except DataError as error:
        assert all(fault.what and fault.where and fault.what.isprintable() for fault in error.faults)
    else:
        records = read if isinstance(read, list) else [read]
        assert parse_records([to_json(record.to_dict()) for record in records], Preference, "again") == records


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500])
def test_a_document_nested_without_end_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert fault_texts(lambda: read_json(tmp_path / "manifest.json")) == ["cannot be read: nested more than 100 deep"]


def test_a_record_too_deep_to_be_written_again_is_refused() -> None:
    row = {**PAIR, "prompt": [{"role": "user", "content": "x", "more": json.loads("[" * 500 + "]" * 500)}]}
    assert fault_texts(lambda: parse_records([json.dumps(row)], Preference, "x")) == [
        "not JSON: nested more than 100 deep"
    ]


def test_a_record_of_many_lists_beside_each_other_is_read() -> None:
    row = {**PAIR, "other_ids": [[number] for number in range(1000)]}
    assert parse_records([json.dumps(row)], Preference, "x")[0].other_ids == row["other_ids"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 5000, str(2**63), str(-(2**63) - 1)])
def test_a_number_that_no_artifact_holds_is_refused_in_documents_and_in_records(tmp_path: Path, number: str) -> None:
    (tmp_path / "evaluation.json").write_text(f'{{"reward": {number}}}')
    (document,) = fault_texts(lambda: read_json(tmp_path / "evaluation.json"))
    (record,) = fault_texts(lambda: parse_records([f'{{"seed": {number}}}'], Completion, "x"))
    assert document.removeprefix("cannot be read: ") == record.removeprefix("not JSON: ")
    assert len(document) < 120, "the number is not shown whole"


def test_the_largest_seed_is_read() -> None:
    assert (
        parse_records([json.dumps({**PAIR, "prompt_index": 2**63 - 1})], Preference, "x")[0].prompt_index == 2**63 - 1
    )


def test_bytes_that_are_not_utf8_on_standard_input_are_a_user_error() -> None:
    stream = io.TextIOWrapper(io.BytesIO(b'{"prompt": "na\xefve"}\n'), encoding="utf-8")
    (text,) = fault_texts(lambda: parse_records(stream, Preference, "<stdin>"))
    assert text.startswith("cannot be read: 'utf-8' codec can't decode byte 0xef")


@pytest.mark.parametrize("read", [lambda path: read_records(path, Preference), read_json])
@pytest.mark.parametrize("is_pipe", [True, False])
def test_a_pipe_or_a_device_in_the_place_of_an_artifact_is_refused(
    tmp_path: Path, read: Callable[[Path], Any], is_pipe: bool
) -> None:
    path = tmp_path / "pairs.jsonl"
    if is_pipe:
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert fault_texts(lambda: read(path)) == ["cannot be read: it is a pipe or a device, not a file"]


@pytest.mark.parametrize("read", [lambda path: read_records(path, Preference), read_json])
@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "", "/"])
def test_a_name_that_no_file_can_have_is_a_user_error(read: Callable[[Path], Any], name: str) -> None:
    (text,) = fault_texts(lambda: read(Path(name)))
    assert text.startswith("cannot be read: ")


def test_records_from_a_pipe_that_the_shell_has_opened_are_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, json.dumps(PAIR).encode())
    os.close(writer)
    assert read_records(Path(f"/dev/fd/{reader}"), Preference) == [Preference(**PAIR)]  # type: ignore[arg-type]
    os.close(reader)


@pytest.mark.parametrize("key", ["\x1b[2J\n", "\ud800", "k" * 100_000])
def test_a_fault_at_a_strange_key_is_told_in_a_short_line_that_can_be_printed(key: str) -> None:
    row = {"against": {key: {"win_rate": "high", "low": []}}}
    fields = dict.fromkeys(Evaluation.__dataclass_fields__) | {"round": 1, "policy": "x", "num_prompts": 1} | row
    (text,) = fault_texts(lambda: parse_records([json.dumps(fields)], Evaluation, "x"))
    assert text.startswith("key 'against.") and text.isprintable() and len(text) <= 200


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_CHARS", 2**20)
    (tmp_path / "pairs.jsonl").write_text("x" * 2**21)
    assert fault_texts(lambda: read_records(tmp_path / "pairs.jsonl", Preference)) == ["a line is longer than 1 MiB"]


def test_a_document_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_CHARS", 2**20)
    (tmp_path / "manifest.json").write_text(" " * 2**21)
    assert fault_texts(lambda: read_json(tmp_path / "manifest.json")) == ["cannot be read: it is longer than 1 MiB"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("5", "not a JSON object but int"),
        ("[]", "not a JSON object but list"),
        ("{}", "key 'round' is missing"),
        ("", "cannot be read: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_a_document_that_is_no_evaluation_is_a_user_error(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(DataError) as caught:
        read_record(tmp_path / "evaluation.json", Evaluation)
    (fault,) = caught.value.faults
    assert (fault.what, fault.where) == (what, str(tmp_path / "evaluation.json"))
    assert fault.hint == "restore it from a copy, or make it again"


def test_a_record_comes_back_from_a_document_of_its_own(tmp_path: Path) -> None:
    record: Record = Preference(**PAIR)  # type: ignore[arg-type]
    store.write_json(tmp_path / "pair.json", record.to_dict())
    assert read_record(tmp_path / "pair.json", Preference) == record
