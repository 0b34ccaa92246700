"""How many threads a run computes with: chosen once, kept in the run, and the same wherever it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_runs import killed_at_step, train
from run_fixtures import LABELER, NO_EVALUATION, Align, MakeFolder, files_below

from align_cli.artifacts.store import write_json
from align_cli.recipe import load_recipe
from align_cli.run.folder.begun import Begun
from align_cli.run.threads import choose_num_threads, computing_with, free_cores, usable_cores
from align_cli.stages.base import Context
from align_cli.stages.train import Train as TrainStage

pytestmark = pytest.mark.usefixtures("no_garbage_in_libraries")
COUNTING = f"""{LABELER}

def count(prompts, completions):
    import torch

    if list(prompts) != list(completions):  # as the probe before the run has them
        with open("threads.txt", "a") as file:
            print(torch.get_num_threads(), file=file)
    return score(prompts, completions)
"""


@pytest.fixture
def folder(make_folder: MakeFolder, tmp_path: Path) -> Path:
    """A run whose labeler writes down how many threads torch computes with."""
    made = make_folder(
        tmp_path / "here", labelers__ours={"kind": "function", "function": "labeler.py:count"}, **NO_EVALUATION
    )
    (made / "labeler.py").write_text(COUNTING, encoding="utf-8")
    return made


def threads_seen(folder: Path) -> set[int]:
    return {int(line) for line in (folder / "threads.txt").read_text().split()}


def threads_kept(folder: Path) -> dict[str, int]:
    return json.loads((folder / "run" / "run.json").read_text())["num_threads"]


@pytest.mark.long
def test_a_run_of_a_small_model_computes_with_one_thread_and_keeps_that(folder: Path, align: Align) -> None:
    assert align("train", "recipe.yaml", "rounds=1", cwd=folder).code == 0
    assert threads_seen(folder) == {1}
    assert threads_kept(folder) == {"0": 1}


@pytest.mark.long
def test_a_run_goes_on_with_the_threads_that_it_began_with_whatever_the_next_process_would_choose(
    folder: Path, align: Align
) -> None:
    assert align("train", "recipe.yaml", "rounds=1", "num_threads=2", cwd=folder).code == 0
    (folder / "threads.txt").unlink()
    assert align("train", "recipe.yaml", "rounds=2", cwd=folder).code == 0
    assert threads_seen(folder) == {2}
    assert threads_kept(folder) == {"0": 2}


@pytest.mark.long
def test_another_number_is_said_and_holds_from_the_next_step_on(folder: Path, align: Align) -> None:
    assert align("train", "recipe.yaml", "rounds=1", cwd=folder).code == 0
    (folder / "threads.txt").unlink()
    done = align("train", "recipe.yaml", "rounds=2", "num_threads=2", cwd=folder)
    assert done.code == 0
    assert "num_threads is 2 and was 1: results may differ in their last digits from here on" in done.err
    assert threads_seen(folder) == {2}
    assert threads_kept(folder) == {"0": 1, "2": 2}


@pytest.mark.long
def test_rounds_that_are_trained_again_are_computed_with_the_threads_that_they_had(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    sparse = (
        "rounds=3",
        "checkpoints.every_rounds=3",
        "checkpoints.every_steps=null",
        "train.steps_per_round=2",
        "policy.sft.max_steps=2",
    )
    with killed_at_step(monkeypatch, 6):  # in round 2
        train(*sparse)
    seen = []
    for name in ("replay", "carry_out"):
        monkeypatch.setattr(TrainStage, name, _noting_threads(getattr(TrainStage, name), seen))
    said = train(*sparse, "num_threads=2")
    assert "round 1 train: done again, since the round left no checkpoint" in said
    assert seen == [("carry_out", 2, 2), ("replay", 1, 1), ("carry_out", 3, 2)]
    assert torch.get_num_threads() == 1


def _noting_threads(method: Callable[..., Any], seen: list[tuple[str, int, int]]) -> Callable[..., Any]:
    def noting(stage: TrainStage, context: Context) -> Any:
        seen.append((method.__name__, context.round, torch.get_num_threads()))
        return method(stage, context)

    return noting


@pytest.mark.long
def test_single_commands_compute_with_the_threads_of_the_runs_folder(folder: Path, align: Align) -> None:
    sampled = align("generate", "recipe.yaml", "num_threads=2", "-o", "completions.jsonl", cwd=folder)
    assert sampled.code == 0, sampled.err
    assert threads_kept(folder) == {"0": 2}
    assert align("label", "recipe.yaml", "-i", "completions.jsonl", "-o", "pairs-out.jsonl", cwd=folder).code == 0
    assert threads_seen(folder) == {2}


@pytest.mark.long
def test_a_fork_computes_with_the_threads_of_its_origin(folder: Path, align: Align) -> None:
    assert align("train", "recipe.yaml", "rounds=1", "num_threads=2", cwd=folder).code == 0
    (folder / "threads.txt").unlink()
    forked = ("output_dir=fork", "rounds=2", "--from", "run@1")
    assert align("train", "recipe.yaml", *forked, cwd=folder).code == 0
    assert threads_seen(folder) == {2}


def test_more_threads_than_cores_are_said(folder: Path, align: Align) -> None:
    cores = usable_cores()
    done = align("train", "recipe.yaml", "rounds=1", f"num_threads={cores + 1}", cwd=folder)
    assert f"the run computes with {cores + 1} threads, and this machine has {cores} cores" in done.err


def test_threads_are_no_reason_to_refuse_a_finished_run(folder: Path, align: Align) -> None:
    assert align("train", "recipe.yaml", "rounds=1", cwd=folder).code == 0
    before = files_below(folder / "run" / "rounds")
    done = align("train", "recipe.yaml", "rounds=1", "num_threads=2", cwd=folder)
    assert done.code == 0
    assert "is finished" in done.err
    assert files_below(folder / "run" / "rounds") == before


def test_what_is_kept_of_later_rounds_goes_with_a_new_number(tmp_path: Path) -> None:
    begun = Begun(lambda: tmp_path / "run.json")
    begun.write(seed=0)
    assert begun.num_threads(3) is None
    for number, threads in ((0, 1), (4, 8), (2, 3)):
        begun.remember_num_threads(number, threads)
    assert [begun.num_threads(number) for number in range(6)] == [1, 1, 3, 3, 3, 3]


@pytest.mark.parametrize("damaged", [[], {"one": 1}, {"0": 0}, {"0": "1"}, {"-1": 2}, {"0": 10**9}, 3])
def test_a_number_that_was_damaged_is_passed_over(tmp_path: Path, damaged: object) -> None:
    write_json(tmp_path / "run.json", {"num_threads": damaged})
    assert Begun(lambda: tmp_path / "run.json").num_threads(0) is None


@pytest.mark.parametrize("edited", [{"num_threads": {"0": 2}}, {"seed": 1}, {"crc32": 0}])
def test_a_number_in_a_document_that_was_edited_is_not_believed(tmp_path: Path, edited: dict[str, Any]) -> None:
    """It changes the run's bytes."""
    begun = Begun(lambda: tmp_path / "run.json")
    begun.write(seed=0)
    begun.remember_num_threads(0, 1)
    written = json.loads((tmp_path / "run.json").read_text())
    write_json(tmp_path / "run.json", {**written, **edited})
    assert begun.num_threads(0) is None
    begun.remember_num_threads(0, 3)
    assert begun.num_threads(0) == 3
    assert json.loads((tmp_path / "run.json").read_text())["versions"] == written["versions"]


def test_computing_with_puts_back_what_was_there() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), computing_with(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


@contextmanager
def every_core_busy() -> Iterator[None]:
    """Other processes that keep all cores at work."""
    loop = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with ExitStack() as stack:
        for _ in range(usable_cores()):
            process = stack.enter_context(subprocess.Popen(loop, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield


def test_on_a_machine_whose_cores_are_all_busy_one_thread_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", usable_cores)
    with every_core_busy():
        assert free_cores() == 1


def test_torchs_own_bound_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OMP_NUM_THREADS sets it."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert free_cores() == 1


def test_which_models_are_small(write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align_cli.run.threads.free_cores", lambda: 7)
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    for size, expected in ((1_000_000, 1), (50_000_000, 7)):
        with weights.open("wb") as file:
            file.truncate(size)
        recipe = load_recipe(write_recipe(tmp_path, policy__model_name_or_path=str(weights.parent)))
        assert choose_num_threads(recipe) == expected
    assert choose_num_threads(load_recipe(write_recipe(tmp_path))) == 1
    assert choose_num_threads(load_recipe(write_recipe(tmp_path, num_threads=3))) == 3
    of_the_hub = write_recipe(tmp_path, policy__model_name_or_path="somebody/a-model")
    assert choose_num_threads(load_recipe(of_the_hub)) == 7
