from __future__ import annotations

from pathlib import Path

import pytest

from align_cli.data.preferences import read_preferences
from align_cli.data.prompts import read_prompts
from align_cli.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def test_a_parquet_file_is_read_and_its_gaps_are_no_values(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "messages": None},
        {"prompt": None, "messages": [{"role": "user", "content": "b"}]},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert read_prompts(str(tmp_path / "p.parquet")) == [
        {"prompt": "a"},
        {"prompt": [{"role": "user", "content": "b"}]},
    ]


def test_faults_name_the_row(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c", "label": label} for label in (0.5, 2.0, float("nan"))]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    with pytest.raises(DataError) as caught:
        read_preferences(str(tmp_path / "p.parquet"))
    assert [fault.where.removeprefix(str(tmp_path)) for fault in caught.value.faults] == [
        "/p.parquet[1]",
        "/p.parquet[2]",
    ]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1 not at all PAR1"])
def test_a_damaged_file_is_a_data_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p.parquet").write_bytes(data)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_prompts(str(tmp_path / "p.parquet"))
