from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from align_cli.artifacts.records import Completion, Preference
from align_cli.artifacts.store import (
    TEMPORARY_SUFFIX,
    checksum,
    parse_records,
    print_records,
    read_json,
    read_records,
    write_json,
    write_records,
    write_text,
    writing_folder,
)
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


def test_equal_records_are_equal_bytes_in_a_file_and_on_a_stream(
    make_completion: Callable[..., Completion], tmp_path: Path
) -> None:
    completions = [make_completion(prompt, sample) for prompt in range(3) for sample in range(2)]
    write_records(tmp_path / "a.jsonl", completions)
    write_records(tmp_path / "b.jsonl", iter(completions))
    stream = io.StringIO()
    print_records(completions, stream)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes() == stream.getvalue().encode()


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
    assert faults[0].what.startswith("not JSON at character 1 (")
    assert faults[1].what == "not a JSON object but list"
    assert faults[2].what == "key 'rejected' is missing"
    assert faults[3].what.startswith("key 'label': ")
    assert {fault.hint for fault in faults} == {"each line is one preference in JSON"}


def test_of_very_many_broken_lines_twenty_are_shown_and_the_rest_is_counted() -> None:
    with pytest.raises(DataError) as caught:
        parse_records(["{}"] * 57, Preference, "pairs.jsonl")
    assert len(caught.value.faults) == 21
    assert caught.value.faults[-1].what == "and 37 more broken lines"


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


def test_an_error_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", _raise_disk_error)
        with pytest.raises(OSError, match="no space left"):
            write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert not path.with_name("a.txt" + TEMPORARY_SUFFIX).exists()


def test_an_error_among_the_records_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_records(path, [Preference(**PAIR)])

    def broken() -> Iterator[Preference]:
        yield Preference("q", "c", "d")
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        write_records(path, broken())
    assert read_records(path, Preference) == [Preference(**PAIR)]


def test_a_process_killed_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    killed = _run_killed("Path.replace = kill", f"write_text(Path({str(path)!r}), 'new')")
    assert killed == -signal.SIGKILL
    assert path.read_text() == "old"
    assert path.with_name("a.txt" + TEMPORARY_SUFFIX).read_text() == "new", "it was killed between write and rename"


def test_a_folder_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    with writing_folder(tmp_path / "runs" / "checkpoint") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.bin").write_bytes(b"\0\1")
        assert not (tmp_path / "runs" / "checkpoint").exists()
    assert (tmp_path / "runs" / "checkpoint" / "deep" / "a.bin").read_bytes() == b"\0\1"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["checkpoint"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    _write_folder(tmp_path / "c", "old", "kept-from-old")
    _write_folder(tmp_path / "c", "new")
    assert {path.name: path.read_text() for path in (tmp_path / "c").iterdir()} == {"weights": "new"}


def test_an_error_in_the_block_leaves_the_old_folder(tmp_path: Path) -> None:
    _write_folder(tmp_path / "c", "old")
    with pytest.raises(RuntimeError, match="stop"), writing_folder(tmp_path / "c") as folder:
        (folder / "weights").write_text("new")
        raise RuntimeError("stop")
    assert (tmp_path / "c" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_killed_writers_leftover_is_not_taken(tmp_path: Path) -> None:
    killed = _run_killed(
        "",
        f"with writing_folder(Path({str(tmp_path / 'c')!r})) as folder:\n"
        "    (folder / 'junk').write_text('half')\n"
        "    kill()",
    )
    assert killed == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["c" + TEMPORARY_SUFFIX]
    _write_folder(tmp_path / "c", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["weights"]


def test_a_process_killed_while_it_replaces_a_folder_leaves_a_whole_one(tmp_path: Path) -> None:
    """Whole means all of the old files, all of the new ones, or no folder of that name: never some of the old."""
    _write_folder(tmp_path / "c", "old", "optimizer", "tokenizer")
    killed = _run_killed(
        "unlink = os.unlink\n"
        "def unlink_one_then_die(*args, **kwargs):\n"
        "    unlink(*args, **kwargs)\n"
        "    kill()\n"
        "os.unlink = unlink_one_then_die",
        f"with writing_folder(Path({str(tmp_path / 'c')!r})) as folder:\n"
        "    for name in ('weights', 'optimizer', 'tokenizer'):\n"
        "        (folder / name).write_text('new')",
    )
    assert killed == -signal.SIGKILL, "replacing a folder has to remove the old files at some point"
    if (tmp_path / "c").exists():
        assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["optimizer", "tokenizer", "weights"]


def test_a_rename_that_fails_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_folder(tmp_path / "c", "old")
    replace = Path.replace

    def fail_for_the_new_one(path: Path, target: Path) -> Path:
        if path.name.endswith(TEMPORARY_SUFFIX):
            _raise_disk_error()
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail_for_the_new_one)
        with pytest.raises(OSError, match="no space left"):
            _write_folder(tmp_path / "c", "new")
    assert (tmp_path / "c" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_checksum_sees_every_byte_and_every_name(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    _write_folder(folder, "weights", "other")
    seen = {checksum(folder)}
    (folder / "weights").write_text("weightz")
    seen.add(checksum(folder))
    (folder / "other").rename(folder / "another")
    seen.add(checksum(folder))
    (folder / "deep").mkdir()
    (folder / "another").rename(folder / "deep" / "another")
    seen.add(checksum(folder))
    (folder / "new").write_text("")
    seen.add(checksum(folder))
    assert len(seen) == 5


def test_a_checksum_does_not_depend_on_the_folders_own_name_or_on_times(tmp_path: Path) -> None:
    _write_folder(tmp_path / "a", "same", "other")
    _write_folder(tmp_path / "b", "same", "other")
    os.utime(tmp_path / "b" / "weights", (0, 0))
    assert checksum(tmp_path / "a") == checksum(tmp_path / "b")


def test_a_files_checksum_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert checksum(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _write_folder(path: Path, weights: str, *others: str) -> None:
    with writing_folder(path) as folder:
        (folder / "weights").write_text(weights)
        for name in others:
            (folder / name).write_text(name)


def _raise_disk_error(*_: Any, **__: Any) -> None:
    raise OSError(28, "no space left on device")


def _run_killed(preparation: str, script: str) -> int:
    """Run a script in a process of its own that kills itself where the script or a patched function calls `kill`."""
    head = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from align_cli.artifacts.store import write_text, writing_folder\n"
        "def kill(*_, **__):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    return subprocess.run([sys.executable, "-c", f"{head}{preparation}\n{script}"], check=False).returncode
