"""Killed within a stage, a run goes on after its last batch or step, and ends in the bytes of one that was not killed.

`test_kills` is about what lies between stages. Here every stage has several batches or steps, and the kills (SIGKILL,
of real processes) come before, after and in the middle of writes.
"""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from forked import Finished, Stop
from killed_runs import RECIPE, VARIANTS, differing_files, make_run, train, work_done
from sweeps import swept

FIRST = next(iter(VARIANTS))
ONE_ROUND: dict[str, Any] = {"rounds": 1}
NUM_STEPS = RECIPE["train"]["steps_per_round"]

MORE_OF_A_CHECKPOINT = ("optimizer.safetensors", "training_state.json")

SOME = [
    "all five sources, replay, accumulation, keep 1",
    "spin",
    "adapters merged between rounds, all five sources, previous reference, replay",
    "rolled back every round",
]
"""The variants that are killed within every stage in `make test-all`."""
WRITES = [("replace", 1), ("after replace", 1), ("fsync", 5), ("unlink", 2)]
TIMES = {"spread": (0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1), "in training": (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6)}
"""Seconds after which one process after the other is killed."""
WITHIN_STAGES = [
    Stop("warm-up step", 3, within="round 0 sft"),
    Stop("append", 2, within="round 1 generate"),
    Stop("after replace", 1, within="round 1 label"),
    Stop("amid checkpoint", 2, within="round 1 train"),
    Stop("amid append", 2, within="round 1 evaluate"),
    Stop("after append", 1, within="round 2 generate"),
    Stop("step", 3, within="round 2 train"),
    Stop("manifest", within="round 2 evaluate"),
]


def assert_killed(ended: Finished) -> None:
    assert ended.code == -signal.SIGKILL, ended.err
    assert "Traceback" not in ended.err


def finish(folder: Path, *overrides: str) -> Finished:
    """The run's end."""
    done = train(folder, None, *overrides)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    return done


def assert_only_done_again(killed: Path, whole: Path, expected: Counter[str]) -> None:
    """What the killed run has done more than the whole one."""
    assert work_done(killed) - work_done(whole) == expected
    assert work_done(whole) - work_done(killed) == Counter()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one round that nobody killed. Shared."""
    folder = make_run(tmp_path_factory.mktemp("whole") / "run", FIRST, **ONE_ROUND)
    finish(folder)
    return folder


@pytest.fixture(scope="module")
def killed_in_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed before its last step of training: two checkpoints are kept. Shared: tests take a copy."""
    folder = make_run(tmp_path_factory.mktemp("killed") / "run", FIRST, **ONE_ROUND)
    assert_killed(train(folder, Stop("step", NUM_STEPS, within="round 1 train")))
    assert len(kept_checkpoints(folder)) == NUM_STEPS - 1
    return folder


def kept_checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "run" / "work" / "001-train").iterdir() if path.is_dir())


def flip_a_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.long
def test_killed_in_generation_labelling_and_training_a_run_does_the_batch_or_step_at_hand_again_and_no_more(
    whole: Path, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", FIRST, **ONE_ROUND)
    assert_killed(train(folder, Stop("append", 2, within="round 1 generate")))
    assert_killed(train(folder, Stop("amid append", 2, within="round 1 label")))
    assert_killed(train(folder, Stop("amid checkpoint", 2, within="round 1 train")))
    done = finish(folder)
    assert "round 1 train: going on after step 1 of the round" in done.err.splitlines()
    assert differing_files(folder, whole) == []
    again = Counter(["round 1 generate: sampling", "round 1 label: scoring", "round 1 train: step"])
    assert_only_done_again(folder, whole, again)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["model.safetensors", *(pytest.param(name, marks=pytest.mark.long) for name in MORE_OF_A_CHECKPOINT)]
)
def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(
    name: str, whole: Path, killed_in_training: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(killed_in_training, tmp_path / "run"))
    damaged = kept_checkpoints(folder)[-1] / name
    flip_a_bit(damaged, damaged.stat().st_size // 2)
    done = finish(folder)
    assert f"round 1 train: going on after step {NUM_STEPS - 2} of the round" in done.err.splitlines()
    assert differing_files(folder, whole) == []


@pytest.mark.long
@pytest.mark.parametrize("damage", ["", "{", "null", '{"for": 1, "checksum": null}'])
def test_checkpoints_with_broken_records_are_passed_over(
    damage: str, whole: Path, killed_in_training: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(killed_in_training, tmp_path / "run"))
    for checkpoint in kept_checkpoints(folder):
        checkpoint.with_suffix(".json").write_text(damage)
    assert "going on after step" not in finish(folder).err
    assert differing_files(folder, whole) == []


@pytest.mark.long
@pytest.mark.parametrize("position", [0, 60, -2])
def test_a_damaged_line_of_a_journal_is_done_again_with_all_that_follow(
    position: int, whole: Path, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", FIRST, **ONE_ROUND)
    assert_killed(train(folder, Stop("after append", 3, within="round 1 generate")))
    journal = folder / "run" / "work" / "001-generate" / "policy-samples.jsonl"
    flip_a_bit(journal, position)
    finish(folder)
    assert differing_files(folder, whole) == []
    num_again = 1 if position < 0 else 3  # the first line says what the journal is for
    assert_only_done_again(folder, whole, Counter({"round 1 generate: sampling": num_again}))


@pytest.mark.long
def test_work_of_other_inputs_is_not_used(killed_in_training: Path, tmp_path: Path) -> None:
    changed = "train.learning_rate=0.002"
    other = make_run(tmp_path / "other", FIRST, **ONE_ROUND)
    finish(other, changed)
    folder = Path(shutil.copytree(killed_in_training, tmp_path / "run"))
    # Its own checkpoints are kept, not those of the other inputs that have higher numbers.
    killed = train(folder, Stop("step", 2, within="round 1 train"), changed)
    assert_killed(killed)
    assert "going on after step" not in killed.err
    done = finish(folder, changed)
    assert "round 1 train: going on after step 1 of the round" in done.err.splitlines()
    assert differing_files(folder, other) == []


@pytest.mark.parametrize("moment", ["after manifest", pytest.param("rmtree", marks=pytest.mark.long)])
def test_killed_when_its_last_step_is_finished_a_run_leaves_no_work_behind(
    moment: str, whole: Path, killed_in_training: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(killed_in_training, tmp_path / "run"))
    assert_killed(train(folder, Stop(moment, within="round 1 evaluate")))
    assert "run is finished: 1 round; raise rounds= to go on" in finish(folder).err.splitlines()
    assert differing_files(folder, whole) == []


@pytest.mark.long
@pytest.mark.parametrize("variant", swept(VARIANTS, *SOME))
def test_a_run_killed_within_every_stage_ends_in_the_same_bytes_and_does_little_again(
    variant: str, tmp_path: Path
) -> None:
    whole, folder = make_run(tmp_path / "whole", variant), make_run(tmp_path / "run", variant)
    finish(whole)
    has_warm_start = "round 0 sft: warm-up step" in work_done(whole)
    stops = [stop for stop in WITHIN_STAGES if has_warm_start or stop.within != "round 0 sft"]
    for stop in stops:
        assert_killed(train(folder, stop))
    finish(folder)
    assert differing_files(folder, whole) == []
    more = work_done(folder) - work_done(whole)
    if "every_rounds" in VARIANTS[variant].get("checkpoints", {}):  # whole rounds are trained again, by design
        more = Counter({line: number for line, number in more.items() if not line.endswith(": step")})
    at_most = Counter(stop.within for stop in stops)
    assert all(number <= at_most[line.partition(":")[0]] for line, number in more.items()), more


@pytest.mark.long
def test_a_checkpoint_is_let_go_of_when_no_killed_process_can_need_it_again(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"rounds": 3, "evaluate": {"against": ["previous"]}}  # so that the initial policy is best
    whole, folder = (make_run(tmp_path / name, "previous reference, keep 1", **changes) for name in ("whole", "run"))
    finish(whole)
    for step in ("round 2 train", "round 2 evaluate", "round 3 train", "round 3 evaluate"):
        assert_killed(train(folder, Stop("manifest", within=step)))
    finish(folder)
    assert differing_files(folder, whole) == []
    assert [path.parent.name for path in sorted(whole.glob("run/rounds/*/checkpoint"))] == ["000", "002", "003"]


@pytest.mark.long
@pytest.mark.parametrize(("moment", "stride"), swept(WRITES, ("replace", 1)))
def test_a_run_killed_at_one_write_after_the_other_ends_in_the_same_bytes(
    moment: str, stride: int, tmp_path: Path
) -> None:
    """Every process gets a little further than the one before it."""
    variant = "all five sources, replay, accumulation, keep 1"
    whole, folder = make_run(tmp_path / "whole", variant, **ONE_ROUND), make_run(tmp_path / "run", variant, **ONE_ROUND)
    finish(whole)
    num_kills = last_kill(folder, moment, stride)
    assert num_kills > NUM_STEPS
    assert differing_files(folder, whole) == []


def last_kill(folder: Path, moment: str, stride: int) -> int:
    """Kill at the first, then at a later moment, until a process ends by itself; how many did not."""
    for number in count():
        ended = train(folder, Stop(moment, 1 + number * stride))
        if ended.code == 0:
            return number
        assert_killed(ended)
    raise AssertionError


@pytest.mark.long
@pytest.mark.parametrize("times", swept(TIMES, "spread"))
def test_a_run_killed_after_some_time_ends_in_the_same_bytes(times: str, whole: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", FIRST, **ONE_ROUND)
    for after in TIMES[times]:
        ended = train(folder, Stop("time", seconds=after))
        assert ended.code in (0, -signal.SIGKILL), ended.err
        assert "Traceback" not in ended.err
    finish(folder)
    assert differing_files(folder, whole) == []
