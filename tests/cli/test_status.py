"""`align status`: where a run stands, read from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import Finished, Stop
from run_fixtures import Align, assert_refused, files_below, times_below

from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step
from align_cli.stages.base import Done

MakeFolder = Callable[..., Path]


def test_a_finished_run_is_shown_with_its_rounds_and_its_stages(finished: Path, align: Align) -> None:
    files, times = files_below(finished), times_below(finished)
    shown = align("status", "run", cwd=finished)
    assert (shown.code, shown.err) == (0, "")
    lines = [line.strip() for line in shown.out.splitlines() if line.strip()]
    assert lines[0] == "run: 10 of 10 steps finished, next: none"
    headings = [
        "round",
        "win vs initial",
        "win vs previous",
        "reward",
        "KL",
        "length",
        "EOS",
        "distinct-2",
        "pair acc.",
    ]
    assert [heading for heading in headings if heading not in lines[1]] == []
    assert [line.split()[0] for line in lines[3:6]] == ["0", "1", "2"]
    assert lines[6].split() == ["round", "stage", "time", "result"]
    assert [line.split()[:2] for line in lines[8:]] == [
        ["0", "sft"],
        ["0", "evaluate"],
        *([str(number), stage] for number in (1, 2) for stage in ("generate", "label", "train", "evaluate")),
    ]
    assert (files_below(finished), times_below(finished)) == (files, times)


def test_json_holds_the_plan_what_is_finished_the_evaluations_and_the_ledger(finished: Path, align: Align) -> None:
    shown: Finished = align("status", "run", "--json", cwd=finished)
    assert (shown.code, shown.err) == (0, "")
    status = json.loads(shown.out)
    assert status["planned"] == status["finished"]
    assert status["planned"][0] == {"round": 0, "stage": "sft"}
    assert [evaluation["round"] for evaluation in status["evaluations"]] == [0, 1, 2]
    assert len(status["ledger"]) == 2 * len(status["planned"])


def test_an_interrupted_run_is_shown_with_its_next_step(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    align("train", "recipe.yaml", cwd=folder, stop=Stop("manifest"))
    shown = align("status", "run", cwd=folder)
    assert shown.code == 0
    assert shown.out.splitlines()[0] == "run: 0 of 10 steps finished, next: round 0 sft"
    align("train", "recipe.yaml", cwd=folder, stop=Stop("manifest", 2))
    assert align("status", "run", cwd=folder).out.splitlines()[0] == (
        "run: 1 of 10 steps finished, next: round 0 evaluate"
    )


@pytest.mark.parametrize("place", ["none", "recipe.yaml", "."])
def test_a_place_without_a_run_is_refused(finished: Path, align: Align, place: str) -> None:
    refused = align("status", place, cwd=finished)
    assert_refused(refused)
    assert refused.err == f"{place}: there is no run in this folder\nhint: give a recipe's output_dir\n"


def test_a_run_is_shown_from_anywhere_and_without_its_data(finished: Path, align: Align, tmp_path: Path) -> None:
    shown = align("status", finished / "run", cwd=tmp_path)
    assert shown.code == 0, shown.err
    assert "10 of 10 steps finished" in shown.out


def test_what_guards_saw_and_where_it_led_is_shown(finished_copy: Path, align: Align) -> None:
    manifests, step = RunFolder(finished_copy / "run").manifests, Step(2, "evaluate")
    record = manifests.finished(step) or {}
    seen = [{"guard": "kl", "action": "rollback", "message": "KL to the reference is 99 nats"}]
    manifests.finish(step, record["inputs"], sorted(record["outputs"]), Done({}, continues_from=1), seen)
    lines = align("status", "run", cwd=finished_copy).out.splitlines()
    assert "round 2: guard kl (rollback): KL to the reference is 99 nats" in lines
    assert "round 2: rolled back to the policy of round 1" in lines
    status = json.loads(align("status", "run", "--json", cwd=finished_copy).out)
    assert status["guards"] == [line for line in lines if line.startswith("round 2: ")]
