"""Scratch folders: one goes with its process, also with a killed one, and no other folder ever does."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from align_cli.artifacts.scratch import LOCK_NAME, ScratchFolder

HOLDER = """
import os
from align_cli.artifacts.scratch import ScratchFolder
scratch = ScratchFolder()
(scratch.path / "deep").mkdir()
(scratch.path / "deep" / "model.safetensors").write_text("half")
print(scratch.path, flush=True)
input()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary directory, in this process and in those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@contextmanager
def holder() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process, and its scratch folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


@pytest.fixture
def leftover() -> Path:
    """The scratch folder of a process that was killed."""
    with holder() as (process, folder):
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (folder / "deep" / "model.safetensors").read_text() == "half"
    return folder


def test_a_folder_goes_with_the_block(temporary: Path) -> None:
    with ScratchFolder() as folder:
        assert folder.parent == temporary and folder.name.startswith("align-")
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("text")
    assert list(temporary.iterdir()) == []


def test_a_folder_goes_with_the_block_also_where_its_object_stays(temporary: Path) -> None:
    scratch = ScratchFolder()
    with scratch as folder:
        assert folder == scratch.path
    assert list(temporary.iterdir()) == []


def test_a_folder_goes_with_an_error_in_the_block(temporary: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), ScratchFolder():
        raise RuntimeError("stop")
    assert list(temporary.iterdir()) == []


def test_a_folder_goes_with_its_object(temporary: Path) -> None:
    scratch_folder = ScratchFolder()
    assert list(temporary.iterdir()) == [scratch_folder.path]
    del scratch_folder
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_a_folder_goes_with_a_process_that_ends_by_itself(temporary: Path) -> None:
    with holder() as (process, folder):
        assert folder.is_dir()
        process.communicate("\n")
    assert process.returncode == 0
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_when_the_next_is_made(temporary: Path, leftover: Path) -> None:
    with ScratchFolder() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_the_folder_of_a_living_process_stays(temporary: Path) -> None:
    with holder() as (_, theirs):
        with ScratchFolder() as ours, ScratchFolder() as another:
            assert set(temporary.iterdir()) == {theirs, ours, another}
        assert (theirs / "deep" / "model.safetensors").read_text() == "half"


def test_a_folder_that_is_no_scratch_folder_stays(temporary: Path, leftover: Path) -> None:
    """A run's folder, say, which has a lock of its own; or the target of a link."""
    run = temporary / "align-run"
    run.mkdir()
    (run / ".lock").write_text("")
    leftover.rename(temporary / "elsewhere")
    (temporary / "align-link").symlink_to(temporary / "elsewhere")
    (temporary / "align-file").write_text("mine")
    (temporary / "align-linked-lock").mkdir()
    (temporary / "align-linked-lock" / LOCK_NAME).symlink_to(temporary / "align-file")
    before = sorted(temporary.rglob("*"))
    with ScratchFolder():
        pass
    assert sorted(temporary.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_another_users_folder_stays(temporary: Path, leftover: Path) -> None:
    os.chown(leftover, 12345, -1)
    with ScratchFolder():
        assert (leftover / "deep" / "model.safetensors").is_file()


def test_a_folders_lock_goes_last_so_that_one_that_is_half_removed_is_known(
    temporary: Path, leftover: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, seen = os.unlink, []

    def look_first(path: str, **where: int) -> None:
        if Path(path).name == LOCK_NAME and leftover.is_dir():
            seen.append([entry.name for entry in leftover.iterdir()])
        unlink(path, **where)

    for name in ("a", "z", ".z"):
        (leftover / name).write_text("")
    monkeypatch.setattr(os, "unlink", look_first)
    with ScratchFolder():
        assert seen == [[LOCK_NAME]]
        assert not leftover.exists()


def test_a_lock_is_not_found_before_it_is_held(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, seen = fcntl.flock, []

    def look_first(descriptor: int, how: int) -> None:
        seen.append(list(temporary.glob(f"*/{LOCK_NAME}")))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", look_first)
    with ScratchFolder() as folder:
        assert seen == [[]]
        assert (folder / LOCK_NAME).is_file()


def test_a_forked_child_that_ends_takes_nothing_with_it(temporary: Path) -> None:
    script = HOLDER.replace("input()", "os.fork() or exit()\nos.wait()\nprint(scratch.path.is_dir())")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
    assert list(temporary.iterdir()) == []


def num_open() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_nothing_stays_open(leftover: Path) -> None:
    """Neither a folder's own lock nor those of living and dead processes that were looked at."""
    before = num_open()
    with ScratchFolder():
        pass
    assert num_open() == before
    with holder() as (_, theirs):
        between = num_open()
        with ScratchFolder():
            assert theirs.is_dir()
        assert num_open() == between


def test_what_is_passed_over_keeps_no_leftover_from_going(temporary: Path, leftover: Path) -> None:
    """Wherever it stands among the others."""
    (temporary / "elsewhere").mkdir()
    for number in range(20):
        (temporary / f"align-link-{number}").symlink_to(temporary / "elsewhere")
    with ScratchFolder():
        assert not leftover.exists()
    assert len(list(temporary.iterdir())) == 21


def test_what_cannot_be_removed_is_left_to_the_next(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = os.unlink

    def refuse(path: str, **where: int) -> None:
        if Path(path).name == "model":
            raise OSError(5, "input/output error")
        unlink(path, **where)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        with ScratchFolder() as folder:
            (folder / "model").write_text("half")
    assert sorted(entry.name for entry in folder.iterdir()) == [LOCK_NAME, "model"]
    with ScratchFolder():
        assert not folder.exists()
