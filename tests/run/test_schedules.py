"""Runs whose coefficients, KL and mixture change with the rounds, and whose reference is between two policies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from forked import Stop
from run_fixtures import Align, MakeFolder, assert_refused, assert_same_runs, read_rows

pytestmark = pytest.mark.long

SCHEDULE = {
    "method__sources": {
        "offline": {"mixing": [0.75, 0.5]},
        "dpr": {"mixing": [0.25, 0.5], "gradient": [0.3, 0.0], "labeler": "ours"},
    },
    "method__kl": {"coefficient": [0.0, 0.05], "gradient": "pathwise"},
}
BETWEEN = {
    "policy__reference": "previous",
    "method__loss_type": "inpo",
    "method__initial_reference": 0.25,
    "method__sources": {"offline": {"mixing": 0.5}, "dpr": {"mixing": 0.5, "labeler": "ours"}},
}


@pytest.mark.parametrize("changes", [SCHEDULE, BETWEEN], ids=["a schedule", "a reference between two policies"])
def test_a_run_that_is_killed_within_its_second_round_ends_in_the_same_bytes(
    make_folder: MakeFolder, align: Align, tmp_path: Path, changes: dict[str, object]
) -> None:
    whole = make_folder(tmp_path / "whole", **changes)
    done = align("train", "recipe.yaml", cwd=whole)
    assert done.code == 0, done.err
    broken = make_folder(tmp_path / "broken", **changes)
    for stop in (Stop("manifest", 5), Stop("manifest", 2), Stop("ledger", 2)):
        assert align("train", "recipe.yaml", cwd=broken, stop=stop).code < 0
    assert align("train", "recipe.yaml", cwd=broken).code == 0
    assert_same_runs(broken, whole)


def test_every_round_trains_by_its_own_values_and_later_ones_may_change(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", **SCHEDULE)
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0 and "report was not written" not in done.err, done.err
    first, second = (read_rows(folder / "run" / "rounds" / name / "training.jsonl")[-1] for name in ("001", "002"))
    assert "dpr/response_term" in first and "dpr/kl" not in first
    assert "dpr/response_term" not in second and "dpr/kl" in second

    constant = make_folder(tmp_path / "constant", **SCHEDULE)
    (constant / "recipe.yaml").write_text(
        (folder / "recipe.yaml").read_text(encoding="utf-8").replace("rounds: 2", "rounds: 1"), encoding="utf-8"
    )
    keys = (
        "method.sources.offline.mixing=0.75", "method.sources.dpr.mixing=0.25", "method.sources.dpr.gradient=0.3",
        "method.kl.coefficient=0", "rounds=2",
    )  # fmt: skip
    assert align("train", "recipe.yaml", *keys, cwd=constant, stop=Stop("manifest", 6)).code < 0
    name = Path("rounds/001/preferences.jsonl")
    assert (constant / "run" / name).read_bytes() == (folder / "run" / name).read_bytes()

    more = shutil.copytree(folder, tmp_path / "more")
    changed = ("rounds=3", "method.kl.coefficient=[0, 0.05, 0.2]")
    done = align("train", "recipe.yaml", *changed, cwd=more)
    assert done.code == 0 and "going on after round 2 evaluate" in done.err
    refused = align("train", "recipe.yaml", "rounds=3", "method.kl.coefficient=[0, 0.1]", cwd=folder)
    assert_refused(refused)
    assert "method.kl.coefficient was [0.0, 0.05] and is now [0.0, 0.1]" in refused.err
