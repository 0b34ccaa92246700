"""`align plan`: what is left of a run, and what it will take; it leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_fixtures import Align, MakeFolder, assert_refused, files_below


def test_it_counts_what_is_to_do_and_writes_nothing(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    before = files_below(folder)
    done = align("plan", "recipe.yaml", "--json", cwd=folder)
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    steps = {(step["round"], step["stage"]): step for step in plan["steps"]}
    assert len(steps) == 10
    assert steps[1, "generate"]["responses"] == 32
    assert (steps[2, "train"]["steps"], steps[2, "train"]["pairs"]) == (3, 24)
    assert plan["total"]["seconds"] is None and plan["total"]["disk"] > 0
    assert files_below(folder) == before


def test_of_a_finished_run_it_tells_what_it_took(finished: Path, align: Align) -> None:
    before = files_below(finished)
    done = align("plan", "recipe.yaml", cwd=finished)
    assert done.code == 0, done.err
    assert "run is finished: 2 rounds" in done.out
    assert "so far: 10 of 10 steps in " in done.out and "on disk" in done.out
    more = align("plan", "recipe.yaml", "rounds=4", cwd=finished)
    assert "so far: 10 of 18 steps in " in more.out and "train" in more.out
    assert files_below(finished) == before


def test_what_a_run_is_refused_for_it_is_too(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert_refused(align("plan", "recipe.yaml", "data.prompts=nowhere.jsonl", cwd=folder))


@pytest.mark.long
@pytest.mark.parametrize(
    "option", [[], ["generate.rounds_ahead=1"], ["method.sources.dpr.mixing=0", "method.sources.offline.mixing=1"]]
)
def test_a_measurement_tells_time_memory_and_disk_and_leaves_nothing(
    make_folder: MakeFolder, align: Align, tmp_path: Path, option: list[str]
) -> None:
    folder = make_folder(tmp_path)
    before = files_below(folder)
    done = align("plan", "recipe.yaml", *option, "--measure", "--json", cwd=folder)
    assert done.code == 0, done.err
    assert files_below(folder) == before
    told = json.loads(done.out)["total"]
    align("train", "recipe.yaml", *option, cwd=folder)
    took = sum(len(content) for content in files_below(folder / "run").values())
    assert 0.7 < took / told["disk"] < 1.4
    assert told["seconds"] > 0 and told["memory"] > 100e6


@pytest.mark.long
def test_of_a_run_that_has_begun_the_newest_policy_is_measured(finished_copy: Path, align: Align) -> None:
    before = files_below(finished_copy)
    done = align("plan", "recipe.yaml", "rounds=3", "--measure", "--json", cwd=finished_copy)
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert [step["round"] for step in plan["steps"]] == [3] * 4
    assert "sft" not in {step["stage"] for step in plan["measured"]["steps"]}
    assert files_below(finished_copy) == before


@pytest.mark.long
def test_what_a_measurement_fails_of_is_told_and_nothing_is_left(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    (folder / "labeler.py").write_text(
        "def score(prompts, completions):\n    assert prompts == completions, 'mine'\n    return [0.0] * len(prompts)\n"
    )
    before = files_below(folder)
    done = align("plan", "recipe.yaml", "--measure", cwd=folder)
    assert done.code != 0 and "labelers.ours" in done.err
    assert files_below(folder) == before
