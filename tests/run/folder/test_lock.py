"""The lock of a run's folder: who holds it is read from its file, and whether that process lives."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align_cli.errors import RunError
from align_cli.run.folder.lock import CLOCK, Holder, Lock

HOLD = """
import sys
from pathlib import Path
from align_cli.run.folder.lock import Lock
with Lock(Path("."), Path(".lock")).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    return Lock(tmp_path, tmp_path / ".lock")


def ours(since: float) -> Holder:
    return Holder(os.uname().nodename, os.getpid(), time.strftime(CLOCK, time.localtime(since)))


def test_a_lock_says_who_holds_it_while_it_is_held(lock: Lock, tmp_path: Path) -> None:
    assert lock.holder is None
    with lock.held():
        holder = Lock(tmp_path, tmp_path / ".lock").holder
        assert holder is not None and holder.lives
        assert (holder.host, holder.pid) == (os.uname().nodename, os.getpid())
        with pytest.raises(RunError, match=f"the run is in use by {holder}"), Lock(tmp_path, tmp_path / ".lock").held():
            pass
    assert lock.holder is None


def test_a_process_that_was_killed_holds_nothing_and_is_known(lock: Lock, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert lock.holder is not None and (lock.holder.pid, lock.holder.lives) == (process.pid, True)
        process.kill()
    assert lock.holder is not None and (lock.holder.pid, lock.holder.lives) == (process.pid, False)
    with lock.held():
        assert lock.holder is not None and lock.holder.pid == os.getpid()


def test_another_process_with_the_same_number_is_not_the_holder() -> None:
    assert ours(time.time()).lives
    assert not ours(time.time() - 10 * 365 * 86_400).lives
    assert not ours(time.time())._replace(pid=2**22 + 1).lives
    assert not ours(time.time())._replace(since="0000-00-00 99:99:99").lives


def test_of_another_machine_it_is_not_known_whether_its_process_lives() -> None:
    assert ours(time.time())._replace(host="elsewhere").lives is None


@pytest.mark.parametrize("text", ["", " ", "x pid y since z", " h pid 1 since " + "9" * 4000, " \x00\xff"])
def test_a_lock_file_that_says_nothing_names_nobody(lock: Lock, tmp_path: Path, text: str) -> None:
    (tmp_path / ".lock").write_text(text)
    assert lock.holder is None


def test_what_is_no_file_is_not_read(lock: Lock, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    assert lock.holder is None
    (tmp_path / ".lock").unlink()
    (tmp_path / "file").write_text(f" {ours(time.time())}")
    (tmp_path / ".lock").symlink_to("file")
    assert lock.holder is None
