"""A disk that is full, a folder that cannot be written, a folder that goes away: said in words, and nothing lost.

Where the tests run as root they mount small file systems of their own. A limit on the size of files does the same to a
process anywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked import Finished, Stop
from paused import held
from run_fixtures import LABELER, Align, MakeFolder, assert_refused, assert_same_runs, files_below

from align_cli.errors import ExitCode

ALIGN = Path(sys.executable).parent / "align"
AGAIN = "then run the same command again\n"
LIMITER = "import resource\n\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"

Mount = Callable[..., None]


def assert_told(result: Finished, what: str, hint: str, code: int = ExitCode.DISK) -> None:
    """A fault of the disk: what, where and the remedy in the last two lines, no traceback."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    said = result.err.splitlines()[-2:]
    assert what in said[0], result.err
    assert said[1].startswith("hint: "), result.err
    assert hint in said[1]


def assert_nothing_half_written(folder: Path) -> None:
    """What the manifests name is whole."""
    from align_cli.run.folder import RunFolder
    from align_cli.stages.base import Artifact

    manifests = RunFolder(folder / "run").manifests
    for number in range(3):
        for stage in manifests.of_round(number)["stages"].values():
            for name in stage["outputs"]:
                manifests.verified(Artifact(number, name))


@pytest.fixture
def mount() -> Iterator[Mount]:
    """`mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)`; skips where this process may not mount."""
    mounted: list[Path] = []

    def mount_it(*arguments: str | Path) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("this process may not mount anything")
        mounted.append(Path(arguments[-1]))

    yield mount_it
    for place in reversed(mounted):
        subprocess.run(["umount", "-l", place], check=False)


@pytest.mark.parametrize(
    "sizes",  # no room in the warm start, then in round 1, in its training, in round 2
    [["1500k", "16m"], pytest.param(["600k", "1500k", "3300k", "16m"], marks=pytest.mark.long)],
    ids=" ".join,
)
def test_a_run_on_a_disk_that_fills_up_goes_on_when_there_is_room_and_ends_in_the_same_bytes(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path, mount: Mount, sizes: list[str]
) -> None:
    folder = make_folder(tmp_path)
    (folder / "run").mkdir()
    mount("-t", "tmpfs", "-o", "size=300k", "tmpfs", folder / "run")
    stages = []
    for size in sizes:
        full = align("train", "recipe.yaml", cwd=folder)
        assert_told(full, "cannot be written: the disk is full", "free some space, then run the same command again")
        assert full.err.splitlines()[-2].startswith("run/")
        stages.append(full.err.splitlines()[-2].split(":")[0])
        assert_nothing_half_written(folder)
        assert align("status", "run", cwd=folder).code == 0
        subprocess.run(["mount", "-o", f"remount,size={size}", folder / "run"], check=True)
    assert stages[0] == "run/rounds/000/checkpoint"
    assert len(set(stages)) >= min(len(sizes), 3)
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert_same_runs(folder, finished)


@pytest.mark.parametrize(
    ("size", "place"),
    [
        pytest.param(200, "run/run.json", marks=pytest.mark.long),
        pytest.param(1500, "run/recipe.yaml", marks=pytest.mark.long),
        (20_000, tempfile.gettempdir()),  # where an untrained model is made
    ],
)
def test_a_limit_on_the_size_of_files_is_named_and_may_be_raised(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path, size: int, place: str
) -> None:
    folder = make_folder(tmp_path)
    (folder / "labeler.py").write_text(LIMITER.format(size=size) + LABELER)
    limited = align("train", "recipe.yaml", cwd=folder)
    assert_told(limited, ": cannot be written: a file would be larger than files may be here", "ulimit -f")
    assert limited.err.splitlines()[-2].startswith(place)
    assert [name for name in files_below(folder / "run") if ".partial" in name] == []
    (folder / "labeler.py").write_text(LABELER)
    again = align("train", "recipe.yaml", cwd=folder, stop=Stop("manifest", 2))
    assert "run: begins with round 0 sft" in again.err.splitlines()
    ours, theirs = (files_below(one / "run" / "rounds" / "000") for one in (folder, finished))
    assert {name: theirs[name] for name in ours if name != "manifest.json"} == {
        name: content for name, content in ours.items() if name != "manifest.json"
    }


def test_a_full_disk_under_a_single_stages_output_is_told(finished_copy: Path, align: Align, mount: Mount) -> None:
    (finished_copy / "full").mkdir()
    mount("-t", "tmpfs", "-o", "size=8k", "tmpfs", finished_copy / "full")
    full = align("generate", "recipe.yaml", "-o", "full/completions.jsonl", cwd=finished_copy)
    assert_told(full, "full/completions.jsonl: cannot be written: the disk is full", "free some space")
    assert list((finished_copy / "full").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.long
def test_an_answer_that_standard_output_does_not_take_is_no_success(finished: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [ALIGN, "check", "recipe.yaml"], cwd=finished, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == ExitCode.DISK
    assert done.stderr == f"standard output: cannot be written: the disk is full\nhint: free some space, {AGAIN}"


def test_an_output_that_is_no_file_is_refused_and_left(finished_copy: Path, align: Align) -> None:
    os.mkfifo(finished_copy / "pipe")
    for command in ("generate", "evaluate"):
        refused = align(command, "recipe.yaml", "-o", "pipe", cwd=finished_copy)
        assert_refused(refused)
        assert refused.err.startswith("pipe: the output is a pipe or a device, not a file\nhint: ")
    assert (finished_copy / "pipe").is_fifo()


def test_a_run_in_a_read_only_folder_can_be_looked_at_and_says_why_it_cannot_go_on(
    finished_copy: Path, align: Align, mount: Mount
) -> None:
    run = finished_copy / "run"
    mount("--bind", run, run)
    subprocess.run(["mount", "-o", "remount,ro,bind", run], check=True)
    assert align("status", "run", cwd=finished_copy).code == 0
    assert align("train", "recipe.yaml", cwd=finished_copy).code == 0
    for arguments in (["rounds=3"], ["seed=3", "--restart"]):
        refused = align("train", "recipe.yaml", *arguments, "-q", cwd=finished_copy)
        assert (refused.code, refused.out) == (ExitCode.DISK, "")
        assert refused.err == (
            "run: output_dir cannot be made or written: Read-only file system\nhint: choose another output_dir\n"
        )
    forked = align("train", "recipe.yaml", "--from", "run@1", "output_dir=run/next", "-q", cwd=finished_copy)
    assert (forked.code, forked.out) == (ExitCode.DISK, "")


@pytest.mark.long
def test_a_folder_that_becomes_read_only_in_the_midst_is_told_and_the_run_goes_on_later(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path, mount: Mount
) -> None:
    folder = make_folder(tmp_path)
    (folder / "run").mkdir()
    mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", folder / "run")
    with held("train", "recipe.yaml", cwd=folder, at=Stop("ledger", 2)) as at_work:
        # Its lock is open for writing, which keeps a file system from becoming read-only; a bind mount does not mind.
        mount("--bind", folder / "run", folder / "run")
        subprocess.run(["mount", "-o", "remount,ro,bind", folder / "run"], check=True)
    result = at_work.result.result()
    assert_told(result, "cannot be written: the file system is read-only", "make it writable or choose another place")
    subprocess.run(["mount", "-o", "remount,rw,bind", folder / "run"], check=True)
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert_same_runs(folder, finished)


@pytest.mark.long
@pytest.mark.parametrize(
    ("at", "stranger"),
    [
        (Stop("fsync"), "rounds"),  # a file where the rounds are to be
        (Stop("sampling"), "rounds/000/samples.jsonl/x"),  # a folder where an artifact is to be
    ],
)
def test_a_stranger_in_the_place_of_an_artifact_is_named(
    make_folder: MakeFolder, align: Align, tmp_path: Path, at: Stop, stranger: str
) -> None:
    folder = make_folder(tmp_path)
    with held("train", "recipe.yaml", cwd=folder, at=at) as at_work:
        place = folder / "run" / stranger
        place.parent.mkdir(exist_ok=True)
        place.write_text("mine")
    assert_told(at_work.result.result(), "cannot be written: ", "look at what stands in this place")


MOMENTS = {
    "generate": Stop("sampling", 1, within="round 1 generate"),
    "label": Stop("scoring", 1, within="round 1 label"),
    "train": Stop("step", 2, within="round 1 train"),
    "evaluate": Stop("sampling", 1, within="round 1 evaluate"),
    "the end of a stage": Stop("manifest", 1, within="round 1 generate"),
}


@pytest.mark.parametrize(
    "moment", ["generate", *(pytest.param(name, marks=pytest.mark.long) for name in list(MOMENTS)[1:])]
)
def test_a_run_whose_folder_is_removed_while_it_is_at_work_says_so_and_leaves_nothing(
    make_folder: MakeFolder, align: Align, tmp_path: Path, moment: str
) -> None:
    folder = make_folder(tmp_path)
    with held("train", "recipe.yaml", cwd=folder, at=MOMENTS[moment]) as at_work:
        shutil.rmtree(folder / "run")
    result = at_work.result.result()
    assert_told(result, "run: the run's folder, or the .lock in it, was removed or replaced", "put it back", 2)
    assert not (folder / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize("moment", ["train", "evaluate"])
def test_a_run_whose_folder_was_moved_away_goes_on_when_it_is_back(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path, moment: str
) -> None:
    folder = make_folder(tmp_path)
    with held("train", "recipe.yaml", cwd=folder, at=MOMENTS[moment]) as at_work:
        (folder / "run").rename(folder / "elsewhere")
    assert_told(at_work.result.result(), "was removed or replaced", "it goes on from what is there", 2)
    assert not (folder / "run").exists()
    (folder / "elsewhere").rename(folder / "run")
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert_same_runs(folder, finished)


@pytest.mark.long
def test_a_run_whose_folder_another_process_has_begun_anew_leaves_it_alone(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    with held("train", "recipe.yaml", cwd=folder, at=MOMENTS["generate"]) as at_work:
        shutil.rmtree(folder / "run")
        shutil.copytree(finished / "run", folder / "run")
        before = files_below(folder / "run")
    assert_told(at_work.result.result(), "was removed or replaced", "put it back", 2)
    assert files_below(folder / "run") == before
