"""`align train --smoke`: every stage for two steps, on the longest rows, and nothing is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_fixtures import Align, MakeFolder, files_below, write_rows

LABELER = """
from pathlib import Path

def score(prompts, completions):
    with open("seen.txt", "a") as file:
        file.writelines(prompt + "\\n" for prompt in prompts)
    return [float(len(completion)) for completion in completions]
"""
FEW = {"generate__batch_size": 4, "train__per_device_train_batch_size": 2, "train__steps_per_round": 9, "rounds": 5}


@pytest.fixture
def folder(make_folder: MakeFolder, tmp_path: Path) -> Path:
    """A recipe whose files have a few rows much longer than the others."""
    made = make_folder(tmp_path / "there", **FEW)
    (made / "labeler.py").write_text(LABELER, encoding="utf-8")
    return made


def test_every_stage_takes_two_steps_and_nothing_is_left(folder: Path, align: Align) -> None:
    before = files_below(folder)
    done = align("train", "recipe.yaml", "--smoke", "--json", cwd=folder)
    assert done.code == 0, done.err
    events = {(event["round"], event["stage"]): event for event in json.loads(done.out)}
    assert list(events) == [(0, "sft"), (0, "evaluate"), *((1, s) for s in ("generate", "label", "train", "evaluate"))]
    assert all(event["seconds"] > 0 and event["peak_memory_bytes"] > 0 for event in events.values())
    assert events[1, "train"]["figures"]["last_step"]["step"] == 2
    after = files_below(folder)
    after.pop("seen.txt")
    assert after.keys() == before.keys() and after == before


def test_the_longest_rows_are_taken(folder: Path, align: Align) -> None:
    prompts = [{"prompt": "a " * length} for length in (9, 8, 1, 2, 4, 1, 2, 1, 2, 3)]
    write_rows(folder / "prompts.jsonl", prompts)
    done = align("train", "recipe.yaml", "data.prompts=prompts.jsonl", "--smoke", cwd=folder)
    assert done.code == 0, done.err
    seen = set((folder / "seen.txt").read_text(encoding="utf-8").splitlines())
    of_training = {prompt for prompt in seen if set(prompt.split()) == {"a"}}
    assert {prompt.count("a") for prompt in of_training} == {9, 8, 4, 3}


def test_rows_that_were_cut_are_as_long_as_they_may_be(folder: Path, align: Align) -> None:
    """An answer that was cut has no end of its own; read again it gets one, and is cut again."""
    done = align("train", "recipe.yaml", "data.max_completion_tokens=3", "data.too_long=cut", "--smoke", cwd=folder)
    assert done.code == 0, done.err


def test_demonstrations_are_those_of_prompts_that_are_sampled(folder: Path, align: Align) -> None:
    """The longest prompts are not those of the longest demonstrations, and some of each are taken."""
    shown = [{"prompt": "a " * (9 - number), "completion": "the " * number} for number in range(1, 9)]
    write_rows(folder / "shown.jsonl", [*shown, {"prompt": "what nobody asks", "completion": "the " * 20}])
    write_rows(folder / "prompts.jsonl", [{"prompt": row["prompt"]} for row in shown])
    overrides = ["data.prompts=prompts.jsonl", "data.demonstrations=shown.jsonl", "method.sources.offline.mixing=0"]
    dmd = ["method.sources.dpr.mixing=0.5", "method.sources.dmd.mixing=0.5"]
    done = align("train", "recipe.yaml", *overrides, *dmd, "--smoke", cwd=folder)
    assert done.code == 0, done.err
    asked = (folder / "seen.txt").read_text(encoding="utf-8").splitlines()
    assert {prompt.count("a") for prompt in asked if set(prompt.split()) == {"a"}} == {1, 2, 8, 7}


def test_a_labeler_that_cannot_tell_a_few_responses_apart_is_no_fault_yet(folder: Path, align: Align) -> None:
    (folder / "labeler.py").write_text("def score(prompts, completions):\n    return [0.0] * len(prompts)\n", "utf-8")
    done = align("train", "recipe.yaml", "method.sources.dpr.gradient=0", "label.ties=drop", "--smoke", cwd=folder)
    assert done.code == 0, done.err


def test_what_would_fail_later_fails_now_and_leaves_nothing(folder: Path, align: Align) -> None:
    (folder / "labeler.py").write_text("def score(prompts, completions):\n    return [1.0] * 9\n", encoding="utf-8")
    before = files_below(folder)
    done = align("train", "recipe.yaml", "--smoke", cwd=folder)
    assert done.code == 2
    assert "labelers" in done.err and "9" in done.err
    assert files_below(folder) == before


def test_a_run_that_is_there_stays_as_it_is(folder: Path, align: Align) -> None:
    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    done = align("train", "recipe.yaml", "--smoke", cwd=folder)
    assert done.code == 0, done.err
    assert (folder / "run" / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("option", [("--restart",), ("--from", "run@1"), ("--preferences", "pairs.jsonl", "-o", "new")])
def test_it_goes_with_no_other_way_to_train(folder: Path, align: Align, option: tuple[str, ...]) -> None:
    done = align("train", "recipe.yaml", "--smoke", *option, cwd=folder)
    assert done.code == 2
    assert "--smoke goes with a recipe and overrides alone" in done.err
