"""Small runs in folders of their own, and the command line that works on them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from forked import Finished, run_align

NUM_PAIRS, NUM_EVAL_PAIRS = 40, 12

MakeFolder = Callable[..., Path]
Align = Callable[..., Finished]


def write_rows(path: Path, rows: list[Mapping[str, Any]]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def align() -> Align:
    """`align("train", "recipe.yaml", cwd=folder)` is that command in a process of its own."""
    return run_align


@pytest.fixture(scope="session")
def make_folder(write_recipe: Callable[..., Path]) -> MakeFolder:
    """`make_folder(path, **changes)`: a folder with `recipe.yaml` and the pairs that it reads, all paths relative.

    Two such folders with the same changes hold the same bytes, and so must their runs.
    """
    from align_cli.playground.world import eval_preferences, preferences

    def make(folder: Path, **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / "pairs.jsonl", preferences("few", 0)[:NUM_PAIRS])
        write_rows(folder / "eval_pairs.jsonl", eval_preferences("few", 0)[:NUM_EVAL_PAIRS])
        defaults = {
            "output_dir": "run",
            "data__preferences": "pairs.jsonl",
            "data__eval_preferences": "eval_pairs.jsonl",
        }
        write_recipe(folder, **{**defaults, **changes})
        return folder

    return make


@pytest.fixture(scope="session")
def finished(make_folder: MakeFolder, align: Align, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose run of two rounds is finished, uninterrupted. Shared: tests that touch it take a copy."""
    folder = make_folder(tmp_path_factory.mktemp("finished"))
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder, to work on."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, by its path in it."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return read
