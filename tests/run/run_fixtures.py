"""Fixtures for tests of runs and of the command line: small runs in folders of their own, and commands on them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from forked import Finished, run_align

NUM_PAIRS, NUM_EVAL_PAIRS, NUM_PROMPTS = 40, 12, 256
NUM_DEMONSTRATIONS, NUM_SECOND_DEMONSTRATIONS = 24, 8
LABELER = '''"""The playground's own reward, in a file of the user's."""

from align_cli.playground import hidden_reward


def score(prompts, completions):
    return hidden_reward(prompts=prompts, completions=completions)
'''

Align = Callable[..., Finished]
MakeFolder = Callable[..., Path]
Contents = Callable[[Path], dict[str, bytes]]

OFFLINE_ONLY: dict[str, Any] = {
    "method__sources": {"offline": {"mixing": 1.0}},
    "data__prompts": None,
    "generate": None,
}
SPIN_LIKE: dict[str, Any] = {
    "policy__reference": "previous",
    "data__prompts": None,
    "data__demonstrations": "demonstrations.jsonl",
    "method__sources": {"dmd": {"mixing": 1.0}},
    "generate__num_generations": 1,
    "train__schedule": "round",
    "train__reset_optimizer_each_round": True,
}
XPO_LIKE: dict[str, Any] = {
    "method__sources": {"dpr": {"mixing": 1.0, "labeler": "ours"}},
    "method__optimism": {"coefficient": 0.01, "on": "reference"},
    "generate__num_generations": 1,
    "generate__num_reference_generations": 1,
}
NO_EVALUATION: dict[str, Any] = {"data__eval_prompts": None, "data__eval_preferences": None, "evaluate": None}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def times_below(folder: Path) -> dict[str, int]:
    """When each file and folder below a folder was last changed."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def assert_same_runs(folder: Path, other: Path) -> None:
    """Every artifact of two runs has the same bytes, and so has the recipe."""
    ours, theirs = files_below(folder / "run" / "rounds"), files_below(other / "run" / "rounds")
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert (folder / "run" / "recipe.yaml").read_bytes() == (other / "run" / "recipe.yaml").read_bytes()


def assert_refused(result: Finished) -> None:
    """A fault of the user's: exit code 2, words on standard error, nothing on standard output, no traceback of ours."""
    assert result.code == 2, result.err
    assert result.out == ""
    assert result.err
    assert os.sep + "align_cli" + os.sep not in result.err


@pytest.fixture(scope="session")
def align() -> Align:
    """`align("train", "recipe.yaml", cwd=folder)` is that command in a process of its own."""
    return run_align


@pytest.fixture(scope="session")
def make_folder(write_recipe: Callable[..., Path]) -> MakeFolder:
    """`make_folder(path, **changes)`: a folder with `recipe.yaml` and the files that it reads, all paths relative.

    Two such folders with the same changes hold the same bytes, and so must their runs.
    """
    from align_cli.playground.world import eval_preferences, preferences, prompts, sft_corpus

    shown = sft_corpus(0)[: NUM_DEMONSTRATIONS + NUM_SECOND_DEMONSTRATIONS]
    for row, first in zip(shown[NUM_DEMONSTRATIONS:], shown[:NUM_SECOND_DEMONSTRATIONS], strict=True):
        row["prompt"] = first["prompt"]

    def make(folder: Path, **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / "prompts.jsonl", prompts(0, NUM_PROMPTS))
        write_rows(folder / "pairs.jsonl", preferences("few", 0)[:NUM_PAIRS])
        write_rows(folder / "eval_pairs.jsonl", eval_preferences("few", 0)[:NUM_EVAL_PAIRS])
        write_rows(folder / "demonstrations.jsonl", shown)
        write_rows(folder / "lessons.jsonl", shown)
        (folder / "labeler.py").write_text(LABELER, encoding="utf-8")
        defaults = {
            "output_dir": "run",
            "policy__sft__dataset": "lessons.jsonl",
            "data__prompts": "prompts.jsonl",
            "data__preferences": "pairs.jsonl",
            "data__eval_preferences": "eval_pairs.jsonl",
            "checkpoints__optimizer": "all",
            "labelers__ours": {"kind": "function", "function": "labeler.py:score"},
            "method__sources__dpr__labeler": "ours",
        }
        write_recipe(folder, **{**defaults, **changes})
        return folder

    return make


@pytest.fixture(scope="session")
def finished(make_folder: MakeFolder, align: Align, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose run of two rounds is finished, uninterrupted. Shared: tests that touch it take a copy.

    Beside it `collated.jsonl` holds every pair that training was given.
    """
    folder = make_folder(tmp_path_factory.mktemp("finished"))
    done = align("train", "recipe.yaml", cwd=folder, collated=folder / "collated.jsonl")
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder, to work on."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture(scope="session")
def three_rounds(finished: Path, align: Align, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished folder after one more round. Shared."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("three") / "copy"))
    done = align("train", "recipe.yaml", "rounds=3", cwd=folder)
    assert done.code == 0, done.err
    return folder
