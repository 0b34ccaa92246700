"""A stage that nothing in `run/` knows of runs, is killed and goes on, is reused while it is true, and forks."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path

import pytest
from digest_stage import DIGEST
from forked import Finished, Stop, run_align
from killed_runs import differing_files, make_run
from run_fixtures import read_rows

VARIANT = "offline and dpr"
WITH_STAGE = "digest_stage:put_in"


def train(folder: Path, *overrides: str, stop: Stop | None = None) -> Finished:
    return run_align("train", "recipe.yaml", *overrides, cwd=folder, stop=stop, prepare=WITH_STAGE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the stage, which nobody killed. Shared."""
    folder = make_run(tmp_path_factory.mktemp("staged") / "whole", VARIANT)
    done = train(folder)
    assert done.code == 0, done.err
    return folder


def digest(folder: Path, number: int) -> list[dict[str, int]]:
    return read_rows(folder / "run" / "rounds" / f"{number:03d}" / DIGEST)


def test_it_is_a_step_of_every_round_with_its_artifact_in_the_manifest(whole: Path) -> None:
    pairs = read_rows(whole / "run" / "rounds" / "002" / "preferences.jsonl")
    assert digest(whole, 2) == [
        {"chosen": len(pair["chosen_ids"]), "rejected": len(pair["rejected_ids"])} for pair in pairs
    ]
    stages = json.loads((whole / "run" / "rounds" / "002" / "manifest.json").read_text())["stages"]
    assert list(stages) == ["generate", "label", "digest", "train", "evaluate"]
    assert list(stages["digest"]["outputs"]) == [DIGEST]
    assert list(stages["digest"]["inputs"]["upstream"]) == ["rounds/002/preferences.jsonl"]


@pytest.mark.long
@pytest.mark.parametrize(
    "stop",
    [
        Stop("amid append", 3, within="round 1 digest"),
        Stop("ledger", within="round 2 digest"),
        pytest.param(Stop("after append", 2, within="round 1 digest"), marks=pytest.mark.long),
        pytest.param(Stop("manifest", within="round 1 digest"), marks=pytest.mark.long),
    ],
    ids=lambda stop: f"{stop.before} in {stop.within}",
)
def test_killed_within_it_a_run_ends_in_the_same_bytes(stop: Stop, whole: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "killed", VARIANT)
    assert train(folder, stop=stop).code == -signal.SIGKILL
    done = train(folder)
    assert done.code == 0, done.err
    assert differing_files(folder, whole) == []


def test_finished_it_is_reused_until_a_key_that_it_declares_changes(whole: Path) -> None:
    again = train(whole)
    assert "is finished" in again.err
    refused = train(whole, "guards.kl.above=40.0", "rounds=3")  # which no other stage's results depend on
    assert refused.code == 2
    assert "since round 1 digest was finished, guards.kl.above was 50.0 and is now 40.0" in refused.err


@pytest.mark.long
def test_a_fork_takes_over_what_it_wrote(whole: Path) -> None:
    done = train(whole, "output_dir=fork", "--from", "run@1")
    assert done.code == 0, done.err
    for number in (1, 2):
        ours = whole / "fork" / "rounds" / f"{number:03d}" / DIGEST
        assert ours.read_text() == (whole / "run" / "rounds" / f"{number:03d}" / DIGEST).read_text()


@pytest.fixture
def without_stage() -> partial[Finished]:
    """`align train` as it is."""
    return partial(run_align, "train", "recipe.yaml")


def test_without_the_stage_the_same_recipe_has_no_such_step(tmp_path: Path, without_stage: partial[Finished]) -> None:
    folder = make_run(tmp_path / "plain", VARIANT, rounds=1)
    assert without_stage(cwd=folder).code == 0
    assert not list((folder / "run" / "rounds").rglob(DIGEST))
