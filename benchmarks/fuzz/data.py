"""Fuzz the readers of prompts, preferences and demonstrations with atheris.

The first byte of an input says which type of file the rest is (see FILE_TYPES); each of the three readers reads it.
What they return must be text that can be stored.

    python benchmarks/fuzz/data.py --seconds 1800 --corpus DIR --findings DIR
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import pyarrow
import pyarrow.parquet

with atheris.instrument_imports(include=["align_cli"]):
    from align_cli.data import Choices, read_demonstrations, read_preferences, read_prompts
    from align_cli.data.formats import FORMATS
    from align_cli.data.formats.base import examples_of
    from align_cli.errors import AlignError, Fault

from common import Target, fuzz

Packed = Callable[[bytes], bytes]
FILE_TYPES: tuple[tuple[str, Packed], ...] = (
    (".jsonl", bytes),
    (".json", bytes),
    (".csv", bytes),
    (".txt", bytes),
    (".parquet", bytes),
    (".jsonl.gz", bytes),
    (".json.gz", lambda data: gzip.compress(data, 1)),
    (".csv.gz", lambda data: gzip.compress(data, 1)),
    (".txt.gz", bytes),
)
USER, REPLY = {"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}
OTHER = {"role": "assistant", "content": [{"type": "text", "text": "so"}]}
ROWS: list[dict[str, Any]] = [
    {"prompt": "one\u2028still one", "chosen": "a b", "rejected": "a c", "label": 0.75},
    {"prompt": [USER], "chosen": [REPLY], "rejected": [OTHER], "system": "be brief"},
    {"chosen": [USER, REPLY], "rejected": [USER, OTHER]},
    {"chosen": "\n\nHuman: hi\n\nAssistant: yes", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
    {"chosen": "same words first", "rejected": "same words then"},
    {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    {"chosen_messages": [USER, REPLY], "rejected_messages": [USER, REPLY]},
    {"instruction": "do", "input": "this", "output": "done", "history": []},
    {"question": "what?", "chosen": "x", "rejected": "y"},
    {"prompt": "p", "completion": "c", "label": True},
    {"messages": [{"role": "developer", "content": "s"}, USER, REPLY, USER, REPLY]},
    {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [{}]}, {"role": "tool", "content": "5"}]},
    {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "h"},
            {"from": "gpt", "value": "g"},
        ]
    },
    {"turns": ["first", "second"], "question_id": 81},
    {"text": "plain", "meta": {"a": [1, 2.5, None, True]}},
    *(row for known in FORMATS for row in examples_of(known)),
]
CRITERION = Choices("helpfulness")
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-data-"))


def read(data: bytes) -> None:
    suffix, pack = FILE_TYPES[data[0] % len(FILE_TYPES)] if data else FILE_TYPES[0]
    path = FOLDER / f"rows{suffix}"
    path.write_bytes(pack(data[1:]))
    faults: list[Fault] = []
    for reader in (read_prompts, read_demonstrations, read_preferences):
        try:
            rows = reader(str(path), choices=CRITERION)
        except AlignError as error:
            faults += error.faults
        else:
            assert rows, "a source without rows is no error"
            json.dumps(list(rows), ensure_ascii=False, allow_nan=False).encode("utf-8")
    if faults:
        raise AlignError.of(faults)


def seeds() -> list[bytes]:
    """Rows of every shape in every format."""
    lines = "\n".join(json.dumps(row) for row in ROWS).encode()
    stream = io.StringIO()
    text_rows = [row for row in ROWS if all(isinstance(value, str) for value in row.values())]
    text_rows.append({"prompt": "a\nb", "chosen": 'x "y"', "rejected": "z,", "label": "0.5"})
    table = csv.DictWriter(stream, sorted({key for row in text_rows for key in row}))
    table.writeheader()
    table.writerows(text_rows)
    files = [
        (0, lines),
        (1, json.dumps(ROWS, indent=1).encode()),
        (2, stream.getvalue().encode()),
        (3, b"one\r\ntwo\n\xe9\n"),
    ]
    files += [(0, json.dumps(row).encode()) for row in ROWS]
    files += [(1, json.dumps([row], ensure_ascii=False).encode()) for row in ROWS]
    files += [(2, b"prompt,chosen,rejected,label\na,b,c,1\n"), (2, b'\xef\xbb\xbftext\r\n"one\r\ntwo"\r\n')]
    files += [(4, _parquet([row])) for row in ROWS] + [(4, _parquet(text_rows, compression=None))]
    files += [(5, gzip.compress(lines, mtime=0)), (6, json.dumps(ROWS).encode()), (7, stream.getvalue().encode())]
    files += [(8, gzip.compress(b"one\n" * 5000, mtime=0))]
    return [bytes([kind]) + data for kind, data in files]


def _parquet(rows: list[dict[str, Any]], compression: str | None = "snappy") -> bytes:
    stream = io.BytesIO()
    kept = [{key: value for key, value in row.items() if value != []} for row in rows]
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(kept), stream, compression=compression)
    except pyarrow.ArrowException:  # content that is text in one message and parts in another has no column type
        columns = {"prompt": ["a", "b"], "label": [0.5, None], "chosen": ["c", ""], "rejected": ["e", "f"]}
        pyarrow.parquet.write_table(pyarrow.table(columns), stream, compression=compression)
    return stream.getvalue()


def words() -> list[str]:
    keys = {key for row in ROWS for key in row} | {"role", "content", "from", "value", "type", "text", "function_call"}
    values = ["user", "assistant", "system", "tool", "human", "gpt", "function", "\n\nAssistant:", "\n\nHuman: "]
    values += [json.dumps(message) for message in (USER, REPLY, OTHER)]
    return [*sorted(keys), *(f'"{key}": ' for key in sorted(keys)), *values, *(json.dumps(row) for row in ROWS)]


if __name__ == "__main__":
    fuzz(Target("data", read, seeds(), words(), max_bytes=16_384, num_kinds=len(FILE_TYPES)))
