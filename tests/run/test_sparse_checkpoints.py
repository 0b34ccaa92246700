"""Checkpoints every so many rounds: what was trained since is trained again, and nothing else is done twice.

And the optimizer's state, which stays in the newest checkpoint alone.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forked import Finished, Stop, run_align
from killed_runs import differing_files, make_run, train, work_done
from run_fixtures import read_rows
from sweeps import swept

from align_cli.run.plan import Step
from align_cli.run.tidy import superfluous
from align_cli.stages.base import Artifact

VARIANT, MERGED = "offline and dpr", "adapters merged between rounds, warm start"
EVERY_THREE = ("rounds=5", "checkpoints.every_rounds=3")
REFERENCES = {"initial": (), "previous": ("policy.reference=previous",)}
OPTIMIZER = "optimizer.safetensors"


def checkpoints(folder: Path, run: str = "run") -> list[int]:
    return sorted(int(path.parent.name) for path in (folder / run / "rounds").glob("*/checkpoint"))


def with_optimizer(folder: Path, run: str = "run") -> list[int]:
    return sorted(int(path.parent.parent.name) for path in (folder / run / "rounds").glob(f"*/checkpoint/{OPTIMIZER}"))


class Whole(dict[str, Path]):
    """For each kind of reference, a run of five rounds that nobody killed, made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, reference: str) -> Path:
        self[reference] = make_run(self.folder / reference, VARIANT)
        finish(self[reference], reference)
        return self[reference]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Shared: tests that touch a run of it take a copy."""
    return Whole(tmp_path_factory.mktemp("sparse"))


def finish(folder: Path, reference: str) -> Finished:
    done = train(folder, None, *EVERY_THREE, *REFERENCES[reference])
    assert done.code == 0, done.err
    return done


def test_a_checkpoint_stands_at_every_third_round_and_at_the_end(whole: Whole) -> None:
    assert checkpoints(whole["initial"]) == [0, 3, 5]
    assert all(
        (whole["initial"] / "run" / "rounds" / f"00{number}" / "training.jsonl").is_file() for number in range(6)
    )


@pytest.mark.long
@pytest.mark.parametrize("reference", REFERENCES)
def test_killed_between_checkpoints_again_and_again_a_run_ends_in_the_same_bytes(
    reference: str, whole: Whole, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "killed", VARIANT)
    for stop in (
        Stop("step", 2, within="round 2 train"),
        Stop("append", 2, within="round 3 generate"),
        Stop("manifest", within="round 3 evaluate"),
        Stop("ledger", within="round 4 train"),
        Stop("step", 3, within="round 5 train"),
        Stop("manifest", within="round 5 evaluate"),
    ):
        assert train(folder, stop, *EVERY_THREE, *REFERENCES[reference]).code == -signal.SIGKILL, stop
    finish(folder, reference)
    assert differing_files(folder, whole[reference]) == []


def test_only_training_since_the_last_checkpoint_is_done_again_and_that_is_said(whole: Whole, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "killed", VARIANT)
    assert train(folder, Stop("ledger", within="round 5 label"), *EVERY_THREE).code == -signal.SIGKILL
    done = finish(folder, "initial")
    assert [line for line in done.err.splitlines() if "again" in line] == [
        "round 4 train: done again, since the round left no checkpoint"
    ]
    # Its steps are counted in the step that needed its policy.
    assert work_done(folder) - work_done(whole["initial"]) == {"round 5 train: step": 3}
    assert work_done(whole["initial"]) - work_done(folder) == {}


@pytest.mark.long
def test_a_round_that_is_not_what_it_was_when_it_is_trained_again_is_refused(whole: Whole, tmp_path: Path) -> None:
    """As on a machine whose numbers differ."""
    from align_cli.run.folder import RunFolder

    folder = make_run(tmp_path / "killed", VARIANT)
    assert train(folder, Stop("ledger", within="round 5 label"), *EVERY_THREE).code == -signal.SIGKILL
    training = folder / "run" / "rounds" / "004" / "training.jsonl"
    steps = read_rows(training)
    steps[0]["loss"] += 1e-6
    training.write_text("".join(json.dumps(step) + "\n" for step in steps))
    manifests = RunFolder(folder / "run").manifests
    manifest = manifests.of_round(4)
    from align_cli.artifacts.checksums import checksum

    manifest["stages"]["train"]["outputs"]["training.jsonl"] = checksum(training)
    for number in (4, 5):
        later = manifests.of_round(number)
        for record in later["stages"].values():
            if "rounds/004/training.jsonl" in record["inputs"]["upstream"]:
                record["inputs"]["upstream"]["rounds/004/training.jsonl"] = checksum(training)
        manifests.write(number, later)
    refused = train(folder, None, *EVERY_THREE)
    assert refused.code == 2, refused.err
    assert "round 4, which left no checkpoint, was trained again, and its steps have other figures" in refused.err


def test_a_fork_from_a_round_without_a_checkpoint_is_refused_and_names_one_that_has_it(
    whole: Whole, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole["initial"], tmp_path / "copy"))
    refused = train(folder, None, *EVERY_THREE, "output_dir=fork", "--from", "run@4")
    assert refused.code == 2
    assert "run@4: the run keeps no checkpoint of round 4" in refused.err
    assert "hint: it can be forked from round 0 or 3 or 5\n" in refused.err
    done = train(folder, None, *EVERY_THREE, "output_dir=fork", "checkpoints.optimizer=all", "--from", "run@3")
    assert done.code == 0, done.err


@pytest.mark.long
def test_the_optimizers_state_stays_in_the_newest_checkpoint_alone(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "newest", VARIANT)
    assert train(folder).code == 0
    assert (checkpoints(folder), with_optimizer(folder)) == ([0, 1, 2], [2])
    record = json.loads((folder / "run" / "rounds" / "001" / "manifest.json").read_text())["stages"]["train"]
    assert record["dropped"] == [f"checkpoint/{OPTIMIZER}"]
    assert OPTIMIZER in record["members"]["checkpoint"]
    more = train(folder, None, "rounds=3")
    assert more.code == 0, more.err
    assert with_optimizer(folder) == [3]


@pytest.mark.long
def test_all_checkpoints_keep_it_where_that_is_asked_for_and_a_fork_then_ends_in_the_same_bytes(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "all", VARIANT, checkpoints={"optimizer": "all"})
    assert train(folder).code == 0
    assert with_optimizer(folder) == [1, 2]
    assert train(folder, None, "output_dir=fork", "--from", "run@1").code == 0
    ours, theirs = (folder / name / "rounds" / "002" / "checkpoint" / OPTIMIZER for name in ("fork", "run"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.long
def test_a_fork_from_a_round_whose_optimizer_was_let_go_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "newest", VARIANT)
    assert train(folder).code == 0
    done = train(folder, None, "output_dir=fork", "--from", "run@1")
    assert done.code == 0, done.err
    assert (
        "round 2 train: the optimizer's moments of round 1 were let go (checkpoints.optimizer); it begins with new ones"
    ) in done.err.splitlines()


@pytest.mark.long
def test_where_a_guard_may_roll_back_the_best_rounds_optimizer_stays_too(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "guarded", VARIANT, guards={"kl": {"above": 1.0e9, "action": "rollback"}})
    assert train(folder, None, "rounds=3").code == 0
    rates = {
        number: json.loads((folder / "run" / "rounds" / f"00{number}" / "evaluation.json").read_text())["against"]
        for number in (1, 2, 3)
    }
    best = max((1, 2, 3), key=lambda number: rates[number]["initial"]["win_rate"])
    best = best if rates[best]["initial"]["win_rate"] > 0.5 else 0
    assert with_optimizer(folder) == sorted({3, best} - {0})


def test_single_commands_write_their_checkpoint_whatever_the_cadence(whole: Whole, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole["initial"], tmp_path / "copy"))
    pairs = "run/rounds/004/preferences.jsonl"
    options = ("--preferences", pairs, "--policy", "run/rounds/003/checkpoint", "-o", "out")
    done = train(folder, None, *EVERY_THREE, *options)
    assert done.code == 0, done.err
    assert (folder / "out" / "model.safetensors").is_file()


@pytest.mark.long
def test_a_reference_that_has_no_checkpoint_is_named(whole: Whole, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole["previous"], tmp_path / "copy"))
    keys = (*EVERY_THREE, *REFERENCES["previous"])
    refused = run_align("evaluate", "recipe.yaml", *keys, "--policy", "run/rounds/005/checkpoint", cwd=folder)
    assert refused.code == 2
    assert "the previous policy, of round 4, is not in the run's folder" in refused.err
    assert "hint: it is the reference: take a policy whose round before has a checkpoint in the run" in refused.err


@pytest.mark.long
def test_a_run_that_is_over_sooner_than_was_planned_says_that_its_last_round_has_no_checkpoint(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "shortened", VARIANT)
    assert train(folder, Stop("ledger", within="round 2 evaluate"), *EVERY_THREE).code == -signal.SIGKILL
    done = train(folder, None, "rounds=2", "checkpoints.every_rounds=3")
    assert done.code == 0, done.err
    assert "note: round 2 left no checkpoint (checkpoints.every_rounds)" in done.err


@pytest.mark.parametrize(
    ("variant", "within"),
    swept(
        [
            (VARIANT, "round 4 train"),
            (VARIANT, "round 4 generate"),
            (VARIANT, "round 5 evaluate"),
            (MERGED, "round 5 train"),
        ],
        (VARIANT, "round 4 train"),
        (MERGED, "round 5 train"),
    ),
)
@pytest.mark.long
def test_a_round_that_was_rolled_back_between_checkpoints_is_followed_by_the_same_bytes(
    variant: str, within: str, tmp_path: Path
) -> None:
    """The reference goes back with the policy, and stays where it belongs while rounds are trained again."""
    changes: dict[str, Any] = {
        "rounds": 5,
        "policy": {"reference": "previous"},
        "checkpoints": {"every_rounds": 5, "every_steps": 1},
    }
    whole, killed = (make_run(tmp_path / name, variant, **changes) for name in ("whole", "killed"))
    prepared = {"prepare": "rolled_back:in_round_three"}
    done = run_align("train", "recipe.yaml", cwd=whole, **prepared)
    assert done.code == 0, done.err
    assert "round 3: rolled back; what comes next goes on from the policy of round 0" in done.err
    stop = Stop("sampling" if "train" not in within else "step", 1, within=within)
    assert run_align("train", "recipe.yaml", cwd=killed, stop=stop, **prepared).code == -signal.SIGKILL
    for _ in range(2):  # again once it is finished
        done = run_align("train", "recipe.yaml", cwd=killed, **prepared)
        assert done.code == 0, done.err
    assert differing_files(killed, whole) == []


@pytest.mark.parametrize("rounds", [7, 4])
@pytest.mark.long
def test_rounds_may_be_raised_or_lowered_between_checkpoints(rounds: int, tmp_path: Path) -> None:
    """What is trained again follows the learning rates that it had, which a schedule over the whole run has changed."""
    folders = [make_run(tmp_path / name, VARIANT) for name in ("killed", "straight")]
    keys = ("checkpoints.every_rounds=9", "train.schedule=run")
    for folder, within in zip(folders, ("round 3 train", "round 3 generate"), strict=True):
        stop = Stop("step" if "train" in within else "sampling", 1, within=within)
        assert train(folder, stop, "rounds=5", *keys).code == -signal.SIGKILL
        done = train(folder, None, f"rounds={rounds}", *keys)
        assert done.code == 0, done.err
    assert differing_files(*folders) == []


class Kept:
    """Manifests of a run whose rounds have checkpoints with an optimizer each."""

    def __init__(self, kept: list[int], bases: dict[int, int]) -> None:
        self.kept, self.bases = kept, bases

    def rounds(self) -> list[int]:
        return list(range(max(self.kept) + 1))

    def is_kept(self, artifact: Artifact) -> bool:
        return artifact.round in self.kept

    def has_member(self, artifact: Artifact, member: str) -> bool:
        return artifact.round in self.kept

    def base(self, round_number: int) -> int:
        return self.bases.get(round_number, round_number)


@pytest.mark.parametrize(
    ("kept", "bases", "step", "needed"),
    [
        ([1, 2, 3], {}, Step(3, "evaluate"), {3}),
        ([1, 2, 3], {}, Step(3, "train"), {2, 3}),
        ([2, 4, 6], {7: 2}, Step(8, "evaluate"), {6, 2}),  # round 8 began with the moments of round 2
        ([2, 4, 6], {6: 2}, Step(6, "evaluate"), {6, 2}),
        ([2, 4, 6, 8], {7: 2}, Step(8, "train"), {6, 8, 2}),
        ([2, 4, 6, 8], {7: 2}, Step(8, "evaluate"), {8}),
    ],
)
def test_the_moments_that_rounds_began_with_stay_while_these_may_have_to_be_trained_again(
    kept: list[int],
    bases: dict[int, int],
    step: Step,
    needed: set[int],
    tiny_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """By what is on record, not by what the guards say now."""
    folder: Any = SimpleNamespace(manifests=Kept(kept, bases))
    results: Any = SimpleNamespace(recipe=tiny_recipe(tmp_path, "rounds=9"), best_round=lambda: 4)
    found = {one.artifact.round for one in superfluous(results, folder, step)}
    assert found == set(kept) - needed
