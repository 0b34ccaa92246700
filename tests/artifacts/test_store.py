from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from align_cli.artifacts import store
from align_cli.artifacts.records import Completion, Preference
from align_cli.artifacts.store import parse_records, read_json, read_records, write_json, write_records
from align_cli.errors import DataError

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
ODD_TEXTS = [
    "",
    " ",
    "naïve 漢字 😀",
    'quotes " and \\ back',
    "lines\nand\r\ntabs\t",
    "\u2028 \x85 \x0b \x00",
    "{}",
    "\ufeff",
]


def lines_of(*rows: dict[str, Any]) -> list[str]:
    return [json.dumps(row) + "\n" for row in rows]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_any_text_comes_back_from_a_file_of_records(text: str, tmp_path: Path) -> None:
    pairs = [Preference("p", text, "b"), Preference([{"role": "user", "content": text}], [], [])]
    write_records(tmp_path / "pairs.jsonl", pairs)
    assert read_records(tmp_path / "pairs.jsonl", Preference) == pairs


def test_half_a_surrogate_pair_comes_back_from_a_file_of_records(tmp_path: Path) -> None:
    """JSON may hold one ("\\ud83d"), so a data set may; `json` reads it and UTF-8 cannot write it."""
    pairs = parse_records(['{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}'], Preference, "x")
    write_records(tmp_path / "pairs.jsonl", pairs)
    assert read_records(tmp_path / "pairs.jsonl", Preference) == pairs


def test_equal_records_are_equal_bytes(make_completion: Callable[..., Completion], tmp_path: Path) -> None:
    completions = [make_completion(prompt, sample) for prompt in range(3) for sample in range(2)]
    write_records(tmp_path / "a.jsonl", completions)
    write_records(tmp_path / "b.jsonl", iter(completions))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_completions_are_a_prompt_completion_dataset(
    make_completion: Callable[..., Completion], tmp_path: Path
) -> None:
    write_records(tmp_path / "completions.jsonl", [make_completion(0, 0), make_completion(1, 0)])
    rows = load_dataset("json", data_files=str(tmp_path / "completions.jsonl"), split="train", cache_dir=str(tmp_path))
    assert {"prompt", "completion", "completion_ids", "logps"} <= set(rows.column_names)
    assert rows[1]["prompt"] == "prompt 1 :" and rows[1]["completion"] == " answer 0 ."
    assert rows[1]["logps"] == [-0.5, -0.5, -0.5]


@pytest.mark.parametrize(
    "pair",
    [
        Preference("why?", "because", "so", label=1.0, chosen_score=2.5),
        Preference(
            [{"role": "user", "content": "why?"}],
            [{"role": "assistant", "content": "because"}],
            [{"role": "assistant", "content": "so"}],
        ),
    ],
    ids=["standard", "conversational"],
)
def test_preferences_are_a_preference_dataset(pair: Preference, tmp_path: Path) -> None:
    write_records(tmp_path / "preferences.jsonl", [pair, pair])
    rows = load_dataset("json", data_files=str(tmp_path / "preferences.jsonl"), split="train", cache_dir=str(tmp_path))
    assert len(rows) == 2
    assert (rows[0]["prompt"], rows[0]["chosen"], rows[0]["rejected"]) == (pair.prompt, pair.chosen, pair.rejected)
    assert (rows[0]["label"], rows[0]["chosen_score"]) == (pair.label, pair.chosen_score)


def test_all_broken_lines_are_named_at_once() -> None:
    lines = [
        '{"prompt": "p", "chosen": "a", "rejected": "b"}\n',
        "not json\n",
        "\n",
        "[1, 2]\n",
        *lines_of({"prompt": "p", "chosen": "a"}, {**PAIR, "label": "high"}),
    ]
    with pytest.raises(DataError) as caught:
        parse_records(lines, Preference, "pairs.jsonl")
    faults = caught.value.faults
    assert [fault.where for fault in faults] == [f"pairs.jsonl:{number}" for number in (2, 4, 5, 6)]
    assert faults[0].what == "not JSON at character 1 (Expecting value): 'not json'"
    assert faults[1].what == "not a JSON object but list"
    assert faults[2].what == "key 'rejected' is missing"
    assert faults[3].what.startswith("key 'label': ")
    assert {fault.hint for fault in faults} == {"each line is one preference in JSON"}


def test_lines_that_are_broken_alike_are_told_once_with_all_their_places() -> None:
    lines = ["{}"] * 3 + ["[]"] + ["{}"] * 2
    with pytest.raises(DataError) as caught:
        parse_records(lines, Preference, "pairs.jsonl")
    faults = {fault.where: fault.what for fault in caught.value.faults}
    assert faults == {
        "pairs.jsonl:1": "key 'prompt' is missing; and so in 4 more rows: 2-3, 5-6",
        "pairs.jsonl:4": "not a JSON object but list",
    }
    assert caught.value.not_shown == ""


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_has_not_are_refused(number: str) -> None:
    with pytest.raises(DataError, match=f"x:1: not JSON: {number} is not a JSON number"):
        parse_records([f'{{"prompt": "p", "chosen": "a", "rejected": "b", "label": {number}}}'], Preference, "x")


def test_a_number_beyond_all_floats_is_refused() -> None:
    with pytest.raises(DataError):
        parse_records(['{"prompt": "p", "chosen": "a", "rejected": "b", "chosen_score": 1e999}'], Preference, "x")


def test_a_line_nested_without_end_is_a_broken_line() -> None:
    with pytest.raises(DataError, match="x:1: not JSON"):
        parse_records(['{"prompt": ' + "[" * 100_000], Preference, "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_has_not_is_never_written(value: float, tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.jsonl", [Preference(**PAIR)])
    before = (tmp_path / "pairs.jsonl").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_records(tmp_path / "pairs.jsonl", [Preference(**PAIR, chosen_score=value)])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "pairs.jsonl", {"value": value})
    assert (tmp_path / "pairs.jsonl").read_bytes() == before


def test_a_missing_or_unreadable_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "na\xefve"}\n')
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "none.jsonl", Preference)
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path / "latin.jsonl", Preference)
    with pytest.raises(DataError, match="cannot be read: it is a folder"):
        read_records(tmp_path, Preference)
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "half.json")


def test_a_json_document_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"text": "naïve", "numbers": [1, 2.5]})
    assert read_json(tmp_path / "new" / "a.json") == {"text": "naïve", "numbers": [1, 2.5]}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_an_error_among_the_records_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_records(path, [Preference(**PAIR)])

    def broken() -> Iterator[Preference]:
        yield Preference("q", "c", "d")
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        write_records(path, broken())
    assert read_records(path, Preference) == [Preference(**PAIR)]


def test_a_json_document_is_indented_with_text_as_it_is(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "naïve", "numbers": [1]})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "text": "naïve",\n  "numbers": [\n    1\n  ]\n}\n'


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_what_a_shell_has_opened_is_read_by_its_name(name: str) -> None:
    """As in `--preferences <(command)`."""
    source, sink = os.pipe()
    os.write(sink, "".join(lines_of(PAIR, PAIR)).encode())
    os.close(sink)
    try:
        assert read_records(Path(name.format(source)), Preference) == [Preference(**PAIR)] * 2
    finally:
        os.close(source)
    source, sink = os.pipe()
    os.write(sink, json.dumps(PAIR).encode())
    os.close(sink)
    try:
        assert read_json(Path(name.format(source))) == PAIR
    finally:
        os.close(source)


def test_standard_input_is_read_by_its_name() -> None:
    script = (
        "from pathlib import Path\n"
        "from align_cli.artifacts.records import Preference\n"
        "from align_cli.artifacts.store import read_records\n"
        "print(len(read_records(Path('/dev/stdin'), Preference)))\n"
    )
    text = "".join(lines_of(PAIR, PAIR))
    done = subprocess.run([sys.executable, "-c", script], input=text, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_what_is_as_long_as_can_be_is_read_and_what_is_longer_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(PAIR)
    path = tmp_path / "pairs.json"
    path.write_text(text)
    monkeypatch.setattr(store, "MAX_CHARS", len(text))
    assert read_json(path) == PAIR
    assert read_records(path, Preference) == [Preference(**PAIR)]
    assert parse_records([text], Preference, "x") == [Preference(**PAIR)]
    path.write_text(f"{text} ")
    for read in (lambda: read_json(path), lambda: read_records(path, Preference)):
        with pytest.raises(DataError, match="longer than 0 MiB") as caught:
            read()
        assert caught.value.faults[0].where == str(path)
    with pytest.raises(DataError, match="x: a line is longer than 0 MiB"):
        parse_records(["\n", f"{text} "], Preference, "x")


class Endless(io.TextIOBase):
    """A stream whose first line never ends: whoever asks for all of it gets no answer."""

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        assert size >= 0, "it would fill the memory"
        return "x" * size


def test_a_streams_line_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_CHARS", 1000)
    with pytest.raises(DataError, match="<stdin>: a line is longer than"):
        parse_records(Endless(), Preference, "<stdin>")
