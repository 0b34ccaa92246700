"""Work in progress: which checkpoints are kept, whose they are, and what is passed over."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from align_cli.artifacts.checksums import checksum
from align_cli.errors import RunError
from align_cli.run.folder.work import NUM_CHECKPOINTS_KEPT, WorkInProgress, remove_work_but, work_name
from align_cli.run.plan import Step

TRAIN = Step(1, "train")
PARTS = ("shard-00001.safetensors", "shard-00002.safetensors")


def work(root: Path, step: Step = TRAIN, **inputs: int) -> WorkInProgress:
    return WorkInProgress(root / work_name(step), inputs)


def keep(work: WorkInProgress, numbers: Sequence[int]) -> None:
    for number in numbers:
        work.keep_checkpoint(number, lambda folder, number=number: _save(folder, number))


def _save(folder: Path, number: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"{number}")


def newest(work: WorkInProgress) -> int | None:
    checkpoint = work.checkpoint()
    return int((checkpoint / "weights").read_text()) if checkpoint is not None else None


def test_the_newest_checkpoints_are_kept_and_the_newest_is_found(tmp_path: Path) -> None:
    ours = work(tmp_path, seed=0)
    assert newest(ours) is None
    keep(ours, [1, 2, 3, 4])
    assert newest(work(tmp_path, seed=0)) == 4
    assert len([path for path in ours.folder.iterdir() if path.is_dir()]) == NUM_CHECKPOINTS_KEPT


def test_checkpoints_of_other_inputs_are_passed_over_and_make_room(tmp_path: Path) -> None:
    keep(work(tmp_path, seed=0), [7, 8])
    ours = work(tmp_path, seed=1)
    assert newest(ours) is None
    for number in (1, 2, 3):
        keep(ours, [number])
        assert newest(ours) == number
    assert newest(work(tmp_path, seed=0)) is None


@pytest.mark.parametrize("name", ["step-00000002.json", "step-00000002/weights", "step-00000002/more"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_made_again(name: str, tmp_path: Path) -> None:
    ours = work(tmp_path)
    keep(ours, [1, 2])
    (ours.folder / name).write_text("?")
    assert newest(ours) == 1
    keep(ours, [2])
    assert newest(ours) == 2


@pytest.mark.parametrize("name", ["step-00000002.json", "step-00000002"])
def test_half_a_pair_of_checkpoint_and_record_is_passed_over_and_goes_in_the_end(name: str, tmp_path: Path) -> None:
    """A process may be killed between the two."""
    ours = work(tmp_path)
    keep(ours, [1, 2])
    path = ours.folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert newest(ours) == 1
    keep(ours, [3, 4])
    assert newest(ours) == 4
    assert {path.stem for path in ours.folder.iterdir()} == {"step-00000003", "step-00000004"}


def test_a_step_that_begins_again_has_no_checkpoints_and_still_its_journals(tmp_path: Path) -> None:
    ours = work(tmp_path)
    keep(ours, [1, 2])
    with ours.journal("scores") as journal:
        journal.append([{"scores": [1.0]}])
    ours.drop_checkpoints()
    assert newest(ours) is None
    assert [path.name for path in ours.folder.iterdir()] == ["scores.jsonl"]


def test_work_of_finished_steps_goes_and_that_of_the_next_one_stays(tmp_path: Path) -> None:
    root = tmp_path / "work"
    keep(work(root), [1])
    keep(work(root, Step(0, "sft")), [1])
    remove_work_but(root, [TRAIN])
    assert [path.name for path in root.iterdir()] == ["001-train"]
    work(root).remove()
    assert not root.exists()
    remove_work_but(root, [])


def test_a_checkpoint_that_is_a_link_is_passed_over(tmp_path: Path) -> None:
    ours = work(tmp_path / "work")
    keep(ours, [1, 2])
    shutil.move(ours.folder / "step-00000002", tmp_path / "elsewhere")
    (ours.folder / "step-00000002").symlink_to(tmp_path / "elsewhere")
    assert newest(ours) == 1


def keep_parts(work: WorkInProgress, numbers: Sequence[int]) -> None:
    """Checkpoints of two parts each, beside a state that one process writes."""
    for number in numbers:
        work.keep_parts(number, lambda folder, number=number: _save_parts(folder, number))


def _save_parts(folder: Path, number: int) -> dict[str, str]:
    _save(folder, number)
    for name in PARTS:
        (folder / name).write_text(f"{name} of {number}")
    return {name: checksum(folder / name) for name in PARTS}


def test_a_checkpoint_in_parts_is_found_as_any_other(tmp_path: Path) -> None:
    keep_parts(work(tmp_path), [1, 2, 3])
    assert newest(work(tmp_path)) == 3
    keep(work(tmp_path), [4])
    assert newest(work(tmp_path)) == 4


@pytest.mark.parametrize("is_there", [True, False])
def test_a_part_that_is_missing_or_damaged_is_named_and_the_one_before_is_what_is_left(
    is_there: bool, tmp_path: Path
) -> None:
    ours = work(tmp_path)
    keep_parts(ours, [1, 2])
    folder = ours.folder / "step-00000002"
    part = folder / PARTS[1]
    part.write_text("?") if is_there else part.unlink()
    with pytest.raises(RunError, match="damaged" if is_there else "missing") as caught:
        ours.checkpoint()
    assert caught.value.faults[0].where == str(part)
    assert f"remove {folder}" in caught.value.faults[0].hint
    shutil.rmtree(folder)
    assert newest(ours) == 1


def test_a_checkpoint_in_parts_whose_state_is_damaged_gives_way_to_the_one_before(tmp_path: Path) -> None:
    ours = work(tmp_path)
    keep_parts(ours, [1, 2])
    (ours.folder / "step-00000002" / "weights").write_text("?")
    assert newest(ours) == 1


def test_parts_that_were_not_taken_in_leave_the_checkpoint_before(tmp_path: Path) -> None:
    """A process is killed when all parts are written, and the record is not."""
    ours = work(tmp_path)
    keep_parts(ours, [1])

    def killed(folder: Path) -> dict[str, str]:
        _save_parts(folder, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ours.keep_parts(2, killed)
    assert newest(ours) == 1
