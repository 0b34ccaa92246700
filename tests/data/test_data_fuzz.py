"""Hostile files in the place of data: each is read or refused. `benchmarks/fuzz/data.py` tries far more of them."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align_cli.data import limits, read_demonstrations, read_preferences, read_prompts
from align_cli.errors import DataError, Fault

NO_FIXTURE_RESET = [HealthCheck.function_scoped_fixture]
PIECES = [
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\xe2\x80\xa8", b"\x1b[2J", b"\n\n"),
    *(b'"', b"'", b",", b":", b"{", b"}", b"[", b"]", b"\\", b'"\\ud800"', b'"\\u0000"', b"null", b"NaN", b"-Infinity"),
    *(b"9" * 500, b"9" * 5000, b"1e999", b"[" * 2000, b'{"a":' * 2000, b'{"prompt": 1, "prompt": 2}', b"\x1f\x8b"),
]
CHANGES = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 20), st.sampled_from(PIECES) | st.binary(max_size=8)), max_size=4
)
ROWS: list[dict[str, Any]] = [
    {"prompt": "p", "chosen": "a", "rejected": "b", "label": 0.5, "system": "s"},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]},
    {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}},
    {"instruction": "do", "input": "this", "output": "done"},
]
LINES = "\n".join(map(json.dumps, ROWS)).encode()
CSV = b'prompt,chosen,rejected,label\n"a\nb","x ""y""",z,0.5\nc,d,e,\n'
FILES: dict[str, bytes] = {
    "rows.jsonl": LINES,
    "rows.json": json.dumps(ROWS).encode(),
    "rows.csv": CSV,
    "rows.txt": b"one\r\ntwo\n\xe9\n",
    "rows.jsonl.gz": gzip.compress(LINES, mtime=0),
    "rows.csv.gz": gzip.compress(CSV, mtime=0),
}


def fault_of(path: Path, read: Callable[[str], Any] = read_prompts) -> Fault:
    with pytest.raises(DataError) as caught:
        read(str(path))
    return caught.value.faults[-1]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    begin = time.process_time()
    yield
    assert time.process_time() - begin < seconds


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, suppress_health_check=NO_FIXTURE_RESET)
@given(changes=CHANGES)
def test_a_file_with_any_bytes_changed_is_read_or_refused(tmp_path: Path, name: str, changes) -> None:
    data = FILES[name]
    for place, cut, piece in changes:
        data = data[:place] + piece + data[place + cut :]
    (tmp_path / name).write_bytes(data)
    for read in (read_prompts, read_demonstrations, read_preferences):
        try:
            rows = read(str(tmp_path / name))
        except DataError as error:
            for fault in error.faults:
                assert fault.what and fault.where
                assert fault.what.isprintable() and fault.hint.isprintable()
        else:
            assert rows
            json.dumps(list(rows), ensure_ascii=False, allow_nan=False).encode("utf-8")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv.gz", "rows.parquet"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    fault = fault_of(tmp_path / name)
    assert (fault.what, fault.hint) == (
        "this is a pipe or a device, not a file",
        "write its rows to a file first",
    )


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.txt"])
def test_a_device_in_the_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    assert fault_of(tmp_path / name).what == "this is a pipe or a device, not a file"


def test_a_link_to_nothing_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to("gone.jsonl")
    assert fault_of(tmp_path / "rows.jsonl").hint == "it is a link to what is not there"


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.csv.gz", "rows.txt.gz"])
def test_a_compressed_file_that_unpacks_without_end_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"x" * (limits.ALWAYS_UNPACKED_BYTES + 1)))
    fault = fault_of(tmp_path / name)
    assert fault.what == "the file unpacks to more than 16 MiB, far more than its size lets expect"
    assert fault.hint == "if it is sound, write it as a .jsonl that is not compressed"


def test_a_compressed_file_of_many_equal_rows_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 20_000))
    assert len(read_prompts(str(tmp_path / "rows.jsonl.gz"))) == 20_000


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.txt.gz", "rows.json"])
def test_blank_lines_without_end_are_refused_soon(tmp_path: Path, name: str) -> None:
    data = b"\n" * (4 * limits.MAX_BLANK_BYTES)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with at_most(10):
        assert fault_of(tmp_path / name).what == "the file holds 1 MiB of blank lines one after the other"


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_LINE_BYTES", limits.MIB)
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "' + b"x" * limits.MIB)
    fault = fault_of(tmp_path / "rows.jsonl")
    assert fault.what == "a line is longer than 1 MiB"
    assert fault.hint == "every line must hold one JSON object; is a line break missing?"


def test_a_file_too_large_to_be_read_as_a_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_WHOLE_BYTES", limits.MIB)
    (tmp_path / "rows.csv").write_bytes(b"prompt\n" + b"x\n" * limits.MIB)
    fault = fault_of(tmp_path / "rows.csv")
    assert fault.what == "the file holds more than 1 MiB, and its format is read as a whole"
    assert fault.hint == "write it as .jsonl or .parquet, which are read row by row"


def test_of_very_many_faulty_rows_the_rest_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"promt": "a"}\n' * 300_000)
    with at_most(10):
        assert fault_of(tmp_path / "rows.jsonl").what.endswith("; and so in 999 more rows: 2-1000")


def test_a_csv_of_very_many_columns_is_refused_soon(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(",".join(f"column{number}" for number in range(50_000)), encoding="utf-8")
    with at_most(10):
        assert fault_of(tmp_path / "rows.csv").what == "there are no rows"


def test_the_first_column_that_is_named_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,a,b,a,prompt\n", encoding="utf-8")
    assert fault_of(tmp_path / "rows.csv").what == "two columns are named 'a'"


def test_rows_of_very_many_keys_are_refused_soon(tmp_path: Path) -> None:
    row = json.dumps({f"promp{number}": 1 for number in range(20_000)})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 10, encoding="utf-8")
    with at_most(10):
        assert fault_of(tmp_path / "rows.jsonl").what.startswith("there is no key 'prompt'; found 'promp0', ")


@pytest.mark.parametrize("name", ["rows.csv", "rows.json"])
def test_a_byte_that_is_not_utf8_is_told_with_its_line_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"first\n\nsecond \xff here\nlast\n")
    fault = fault_of(tmp_path / name)
    assert fault.where.endswith(f"{name}:3")
    assert fault.what == "byte 0xff is not UTF-8: 'second \\\\xff here'"


def write_parquet(path: Path, values: pyarrow.Array, name: str = "prompt") -> Path:
    pyarrow.parquet.write_table(pyarrow.table({name: values}), path)
    return path


def test_a_table_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", pyarrow.array(["a" * 10_000] * 3_000))
    assert path.stat().st_size < 100_000
    assert fault_of(path).what == "the file unpacks to more than 16 MiB, far more than its size lets expect"


def test_a_table_of_very_many_empty_rows_is_refused_soon(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", pyarrow.nulls(3_000_000))
    with at_most(10):
        assert fault_of(path).what == "the row is empty; and so in 999 more rows: 1-999"


@pytest.mark.parametrize("zone", [None, "Nowhere/Land"])
def test_a_date_that_python_cannot_hold_is_a_data_error(tmp_path: Path, zone: str | None) -> None:
    path = write_parquet(tmp_path / "rows.parquet", pyarrow.array([2**62], pyarrow.timestamp("us", tz=zone)), "day")
    assert fault_of(path).what.startswith("not a readable Parquet file (")
