from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align_cli.data import read_demonstrations, read_preferences, read_prompts
from align_cli.errors import DataError

ROWS = [{"prompt": "one\u2028still one"}, {"prompt": "zwei, ü"}, {"prompt": "three\nlines"}]


def as_csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["prompt"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


FORMATS: dict[str, Callable[[list[dict[str, str]]], str]] = {
    "rows.jsonl": lambda rows: "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
    "rows.json": lambda rows: json.dumps(rows, indent=2),
    "rows.csv": as_csv,
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, ending: str, mark: bytes) -> None:
    data = mark + FORMATS[name](ROWS).encode()
    path = tmp_path / (name + ending)
    path.write_bytes(gzip.compress(data) if ending else data)
    assert read_prompts(str(path)) == ROWS


def test_a_long_csv_field_is_read_and_the_limit_of_others_kept(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "rows.csv").write_text("prompt\n" + "x" * 200_000 + "\n")
    assert len(read_prompts(str(tmp_path / "rows.csv"))[0]["prompt"]) == 200_000
    assert csv.field_size_limit() == limit


def test_a_csv_fault_names_the_line_where_the_row_begins(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('prompt,chosen,rejected\n"a\nb",x,y\nc,x\n')
    with pytest.raises(DataError) as caught:
        read_preferences(str(tmp_path / "rows.csv"))
    assert caught.value.faults[0].where.endswith("rows.csv:4")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt", "rows.jsonl.gz", "rows.parquet"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_give_rows_or_a_data_error(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    only_rows_or_data_errors(tmp_path / name)


KEYS = ["prompt", "chosen", "rejected", "messages", "conversations", "instruction", "turns", "label", "system", "text"]
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(st.characters()) | st.sampled_from(["user", "\n\nAssistant: a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(KEYS), json_values) | json_values, max_size=3), is_list=st.booleans()
)
def test_any_json_gives_rows_or_a_data_error(tmp_path: Path, rows: list[Any], is_list: bool) -> None:
    path = tmp_path / ("rows.json" if is_list else "rows.jsonl")
    path.write_text(json.dumps(rows) if is_list else "\n".join(map(json.dumps, rows)))
    only_rows_or_data_errors(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 120), junk=st.binary(max_size=3))
def test_a_file_cut_anywhere_gives_rows_or_a_data_error(tmp_path: Path, cut: int, junk: bytes) -> None:
    for name, data in (
        ("rows.json", FORMATS["rows.json"](ROWS).encode()),
        ("rows.csv.gz", gzip.compress(as_csv(ROWS).encode(), mtime=0)),
    ):
        (tmp_path / name).write_bytes(data[:cut] + junk + data[cut + 1 :])
        only_rows_or_data_errors(tmp_path / name)


def only_rows_or_data_errors(path: Path) -> None:
    for read in (read_prompts, read_preferences, read_demonstrations):
        try:
            read(str(path))
        except DataError as error:
            for fault in error.faults:
                fault.what.encode("utf-8")
                assert fault.what.isprintable() and fault.hint.isprintable()
