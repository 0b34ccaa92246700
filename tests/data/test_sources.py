from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from align_cli.data.prompts import read_prompts
from align_cli.errors import DataError


def test_a_missing_file_is_told_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}')
    with pytest.raises(DataError) as caught:
        read_prompts(str(tmp_path / "promts.jsonl"))
    assert caught.value.faults[0].hint == f"did you mean {tmp_path / 'prompts.jsonl'}?"


@pytest.mark.parametrize(
    "name", ["no/such/folder/p.jsonl", "~nobody-at-all/p.jsonl", "x" * 3000, "x" * 3000 + ".txt", "a\0b.jsonl", "", " "]
)
def test_an_unusable_path_is_a_data_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if not name:
        (tmp_path / "notes").write_text("the empty name is this folder")
    with pytest.raises(DataError):
        read_prompts(name, split="no-such-split")


def test_a_folder_gives_the_split_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "test.jsonl").write_text('{"prompt": "b"}\n{"prompt": ""}\n')
    assert read_prompts(str(tmp_path)) == [{"prompt": "a"}]
    with pytest.raises(DataError) as caught:
        read_prompts(str(tmp_path), split="test")
    assert caught.value.faults[0].where == str(tmp_path / "test.jsonl") + ":2"


def run_python(code: str, *arguments: str, **settings: str) -> str:
    environment = {**os.environ, **settings}
    finished = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


READ_TWO = """
import sys
from align_cli.data import read_prompts
from align_cli.errors import DataError
print(read_prompts(sys.argv[1]))
try:
    read_prompts("some-organisation/no-such-dataset")
except DataError as error:
    print(error)
"""


def test_other_layouts_and_the_hub_go_through_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train-00000.jsonl").write_text('{"prompt": "a"}\n{"question": "b"}\n')
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    first, *rest = run_python(READ_TWO, str(folder), **settings).splitlines()
    assert first == "[{'prompt': 'a'}, {'prompt': 'b'}]"
    assert rest[0].startswith("some-organisation/no-such-dataset: split 'train' cannot be loaded (")
    assert rest[1] == (
        "hint: no file has this name, so it was taken for a Hub id: check the id, the split and the network "
        "(with HF_HUB_OFFLINE=1 only what is in the local cache can be read)"
    )


def test_importing_the_readers_loads_no_heavy_library() -> None:
    code = "import sys, align_cli.data; print({'torch', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules))"
    assert run_python(code).strip() == "set()"
