"""Files and folders: whole or not there, whatever happens to who writes them."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts.checksums import member_checksums
from align_cli.artifacts.disk import WriteError, disk_error
from align_cli.artifacts.files import (
    REPLACED_SUFFIX,
    TEMPORARY_SUFFIX,
    _umask,
    append_line,
    copy_file,
    copy_tree,
    open_own,
    remove,
    write_text,
    writing_folder,
)

Stranger = Callable[[Path], Path]


def test_an_error_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", _raise_disk_error)
        with pytest.raises(OSError, match="no space left"):
            write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert not path.with_name("a.txt" + TEMPORARY_SUFFIX).exists()


def test_a_process_killed_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    killed = _run_killed("Path.replace = kill", f"write_text(Path({str(path)!r}), 'new')")
    assert killed == -signal.SIGKILL
    assert path.read_text() == "old"
    assert path.with_name("a.txt" + TEMPORARY_SUFFIX).read_text() == "new", "it was killed between write and rename"


def test_a_folder_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    with writing_folder(tmp_path / "runs" / "checkpoint") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.bin").write_bytes(b"\0\1")
        assert not (tmp_path / "runs" / "checkpoint").exists()
    assert (tmp_path / "runs" / "checkpoint" / "deep" / "a.bin").read_bytes() == b"\0\1"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["checkpoint"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    _write_folder(tmp_path / "c", "old", "kept-from-old")
    _write_folder(tmp_path / "c", "new")
    assert {path.name: path.read_text() for path in (tmp_path / "c").iterdir()} == {"weights": "new"}


def test_an_error_in_the_block_leaves_the_old_folder(tmp_path: Path) -> None:
    _write_folder(tmp_path / "c", "old")
    with pytest.raises(RuntimeError, match="stop"), writing_folder(tmp_path / "c") as folder:
        (folder / "weights").write_text("new")
        raise RuntimeError("stop")
    assert (tmp_path / "c" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_killed_writers_leftover_is_not_taken(tmp_path: Path) -> None:
    killed = _run_killed(
        "",
        f"with writing_folder(Path({str(tmp_path / 'c')!r})) as folder:\n"
        "    (folder / 'junk').write_text('half')\n"
        "    kill()",
    )
    assert killed == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["c" + TEMPORARY_SUFFIX]
    _write_folder(tmp_path / "c", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["weights"]


def test_a_process_killed_while_it_replaces_a_folder_leaves_a_whole_one(tmp_path: Path) -> None:
    """Whole means all of the old files, all of the new ones, or no folder of that name: never some of the old."""
    _write_folder(tmp_path / "c", "old", "optimizer", "tokenizer")
    killed = _run_killed(
        "unlink = os.unlink\n"
        "def unlink_one_then_die(*args, **kwargs):\n"
        "    unlink(*args, **kwargs)\n"
        "    kill()\n"
        "os.unlink = unlink_one_then_die",
        f"with writing_folder(Path({str(tmp_path / 'c')!r})) as folder:\n"
        "    for name in ('weights', 'optimizer', 'tokenizer'):\n"
        "        (folder / name).write_text('new')",
    )
    assert killed == -signal.SIGKILL, "replacing a folder has to remove the old files at some point"
    if (tmp_path / "c").exists():
        assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["optimizer", "tokenizer", "weights"]


def test_a_rename_that_fails_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_folder(tmp_path / "c", "old")
    replace = Path.replace

    def fail_for_the_new_one(path: Path, target: Path) -> Path:
        if path.name.endswith(TEMPORARY_SUFFIX):
            _raise_disk_error()
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail_for_the_new_one)
        with pytest.raises(OSError, match="no space left"):
            _write_folder(tmp_path / "c", "new")
    assert (tmp_path / "c" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT], ids=["read", "write", "make"])
def test_what_is_no_file_is_not_opened_and_told(tmp_path: Path, stranger: Stranger, flags: int) -> None:
    path = stranger(tmp_path / "run" / ".lock")
    with pytest.raises(OSError, match=r"it is a \w+( or a device)?, not a file") as caught:
        open_own(path, flags)
    kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "pipe or a device"
    assert (caught.value.strerror, caught.value.filename) == (f"it is a {kind}, not a file", str(path))


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="it is a pipe or a device, not a file"):
        open_own(Path("/dev/zero"), os.O_RDONLY)


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_link_that_comes_in_between_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / target)
    regular = (tmp_path / "there").stat()
    monkeypatch.setattr(os, "lstat", lambda _: regular)
    with pytest.raises(OSError, match="symbolic links"):
        open_own(tmp_path / "link", os.O_RDWR | os.O_CREAT)
    assert not (tmp_path / "nowhere").exists()


def test_a_pipe_that_comes_in_between_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_waits: None
) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    regular = (tmp_path / "file").stat()
    monkeypatch.setattr(os, "lstat", lambda _: regular)
    with pytest.raises(OSError, match="it is a pipe or a device, not a file"):
        open_own(tmp_path / "pipe", os.O_RDONLY)


def test_a_file_that_is_made_has_the_mode_that_the_umask_leaves_and_no_child_inherits_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        descriptor = open_own(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_whatever_stands_under_a_name_is_removed_and_nothing_else(tmp_path: Path, stranger: Stranger) -> None:
    path = stranger(tmp_path / "run" / "file")
    remove(path)
    assert list(path.parent.iterdir()) == []
    remove(path)


def test_a_stranger_in_the_place_of_the_temporary_file_is_removed(tmp_path: Path, stranger: Stranger) -> None:
    path = tmp_path / "run" / "recipe.yaml"
    stranger(path.with_name("recipe.yaml" + TEMPORARY_SUFFIX))
    write_text(path, "rounds: 1\n")
    assert path.read_text() == "rounds: 1\n" and not path.is_symlink()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [TEMPORARY_SUFFIX, REPLACED_SUFFIX, ""])
def test_a_stranger_in_the_place_of_a_folder_is_removed(tmp_path: Path, stranger: Stranger, suffix: str) -> None:
    path = tmp_path / "run" / "checkpoint"
    stranger(path.with_name("checkpoint" + suffix))
    for weights in ("old", "new"):
        _write_folder(path, weights)
        assert list(path.parent.iterdir()) == [path] and not path.is_symlink()
        assert {file.name: file.read_text() for file in path.iterdir()} == {"weights": weights}


def test_lines_follow_one_another_and_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "ledger.jsonl", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    for count, line in enumerate(["{}", "naïve 😀", ""], start=1):
        append_line(path, line)
        assert path.read_text().count("\n") == count
        assert path.stat().st_size in synced
    assert path.read_text() == "{}\nnaïve 😀\n\n"


@pytest.mark.parametrize("torn", ["{", '{"event": "be', "x" * 100_000])
def test_a_line_that_a_killed_process_left_torn_does_not_swallow_the_next(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "ledger.jsonl"
    append_line(path, "first")
    path.write_text(path.read_text() + torn)
    append_line(path, "second")
    append_line(path, "third")
    assert path.read_text() == f"first\n{torn}\nsecond\nthird\n"


def test_an_append_reads_a_single_byte_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "ledger.jsonl", []
    path.write_text("line\n" * 100_000)
    read_bytes = os.read
    monkeypatch.setattr(os, "read", lambda *args: read.append(args[1]) or read_bytes(*args))
    monkeypatch.setattr(Path, "read_bytes", _raise_disk_error)
    monkeypatch.setattr(Path, "read_text", _raise_disk_error)
    append_line(path, "last")
    assert read == [1]
    assert path.stat().st_size == 5 * 100_001


def test_a_line_is_not_appended_to_what_is_no_file(tmp_path: Path, stranger: Stranger) -> None:
    path = stranger(tmp_path / "run" / "ledger.jsonl")
    with pytest.raises(WriteError, match=r"it is a .*, not a file") as caught:
        append_line(path, "line")
    assert str(disk_error(caught.value)).startswith(f"{path}: cannot be written: it is a ")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A folder with a large and an empty file, deep in it, for the owner alone."""
    (tmp_path / "origin" / "deep" / "empty").mkdir(parents=True)
    (tmp_path / "origin" / "model").write_bytes(os.urandom(3 << 20))
    (tmp_path / "origin" / "deep" / "none").write_bytes(b"")
    for path in (tmp_path / "origin" / "model", tmp_path / "origin" / "deep" / "none"):
        path.chmod(0o400)
    return tmp_path / "origin"


def test_a_copy_holds_the_same_and_shares_nothing_that_a_write_changes(origin: Path, tmp_path: Path) -> None:
    before = (origin / "model").read_bytes()
    copy_tree(origin, tmp_path / "copy")
    assert member_checksums(tmp_path / "copy") == member_checksums(origin)
    assert (tmp_path / "copy" / "deep" / "empty").is_dir()
    for name in ("model", "deep/none"):
        assert (tmp_path / "copy" / name).stat().st_ino != (origin / name).stat().st_ino
        assert (tmp_path / "copy" / name).stat().st_mode & 0o777 == 0o666 & ~_umask()
    with (tmp_path / "copy" / "model").open("r+b") as stream:
        stream.write(b"damaged")
    assert (origin / "model").read_bytes() == before


def test_a_copy_is_by_reference_where_the_file_system_can(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None here can, so that the ioctl is played: it is what copies, and nothing is written besides."""
    asked = []

    def clone(target: int, request: int, source: int) -> None:
        asked.append((request, os.fstat(source).st_ino))
        os.write(target, b"cloned")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(fcntl, "ioctl", clone)
    copy_file(origin / "model", tmp_path / "copy")
    assert asked == [(0x40049409, (origin / "model").stat().st_ino)]
    assert (tmp_path / "copy").read_bytes() == b"cloned"


def test_a_copy_where_nothing_can_be_asked_of_the_file_system_is_made_all_the_same(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "ioctl", None)
    copy_file(origin / "model", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (origin / "model").read_bytes()


def test_what_is_no_file_is_not_copied(origin: Path, tmp_path: Path, stranger: Stranger) -> None:
    path = stranger(origin / "stranger")
    if path.is_dir() and not path.is_symlink():
        return
    with pytest.raises(OSError, match="not a file") as caught:
        copy_tree(origin, tmp_path / "copy")
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("target", ["file", "link"])
def test_a_copy_takes_nothings_place(origin: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError):
        copy_file(origin / "model", tmp_path / target)
    assert (tmp_path / "file").read_text() == "mine"


def _write_folder(path: Path, weights: str, *others: str) -> None:
    with writing_folder(path) as folder:
        (folder / "weights").write_text(weights)
        for name in others:
            (folder / name).write_text(name)


def _raise_disk_error(*_: Any, **__: Any) -> None:
    raise OSError(28, "no space left on device")


def _run_killed(preparation: str, script: str) -> int:
    """Run a script in a process of its own that kills itself where the script or a patched function calls `kill`."""
    head = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from align_cli.artifacts.files import write_text, writing_folder\n"
        "def kill(*_, **__):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    return subprocess.run([sys.executable, "-c", f"{head}{preparation}\n{script}"], check=False).returncode


class Synced:
    """What was made durable, by inode, and when names changed."""

    RENAMED = 0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[int] = []
        self.sizes: dict[int, int] = {}
        replace = os.replace

        def fsync(descriptor: int) -> None:
            found = os.fstat(descriptor)
            self.events.append(found.st_ino)
            self.sizes[found.st_ino] = found.st_size

        def rename(*names: Any, **where: Any) -> None:
            self.events.append(self.RENAMED)
            replace(*names, **where)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", rename)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Synced:
    return Synced(monkeypatch)


def inode(path: Path) -> int:
    return path.stat().st_ino


def num_open() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_file_is_durable_before_it_has_its_name_and_its_name_is_thereafter(tmp_path: Path, synced: Synced) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "naïve\n")
    assert synced.events == [inode(path), Synced.RENAMED, inode(path.parent)]
    assert synced.sizes[inode(path)] == len("naïve\n".encode())


def test_a_folder_is_durable_before_it_has_its_name_and_its_name_is_thereafter(tmp_path: Path, synced: Synced) -> None:
    path = tmp_path / "a" / "b" / "c"
    with writing_folder(path) as folder:
        (folder / "deep" / "er").mkdir(parents=True)
        for name in ("weights", "deep/config", "deep/er/empty"):
            (folder / name).write_text(name)
    renamed = synced.events.index(Synced.RENAMED)
    assert sorted(synced.events[: renamed - 1]) == sorted(map(inode, path.rglob("*")))
    assert synced.events[renamed - 1 :] == [inode(path), Synced.RENAMED, inode(path.parent)]


def test_a_new_files_name_is_durable_with_its_first_line_and_later_lines_cost_one_sync(
    tmp_path: Path, synced: Synced
) -> None:
    path = tmp_path / "ledger.jsonl"
    append_line(path, "")
    append_line(path, "second")
    assert synced.events == [inode(path), inode(tmp_path), inode(path)]
    assert path.read_text() == "\nsecond\n"


def test_a_line_that_need_not_be_durable_waits_for_the_next_that_is_unless_it_begins_the_file(
    tmp_path: Path, synced: Synced
) -> None:
    path = tmp_path / "ledger.jsonl"
    append_line(path, "first", is_durable=False)
    assert synced.events == [inode(path), inode(tmp_path)]
    append_line(path, "second", is_durable=False)
    assert synced.events == [inode(path), inode(tmp_path)]
    append_line(path, "third")
    assert synced.events == [inode(path), inode(tmp_path), inode(path)]
    assert path.read_text() == "first\nsecond\nthird\n"


def test_a_torn_line_of_a_single_byte_is_ended_too(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text("{")
    append_line(tmp_path / "ledger.jsonl", "second")
    assert (tmp_path / "ledger.jsonl").read_text() == "{\nsecond\n"


@pytest.mark.parametrize("left", [[], ["a.txt.partial"]], ids=["", "which cannot be removed"])
def test_a_write_that_fails_is_told_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: list[str]
) -> None:
    """On a full disk it would take the room of what is to come."""
    fails = iter([_raise_disk_error])

    def fsync(_: int) -> None:
        next(fails, lambda: None)()

    monkeypatch.setattr(os, "fsync", fsync)
    if left:
        monkeypatch.setattr(os, "unlink", lambda *_, **__: tmp_path.rmdir())
    with pytest.raises(WriteError, match="no space left") as caught:
        write_text(tmp_path / "a.txt", "new")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert [entry.name for entry in tmp_path.iterdir()] == left


def test_a_rename_of_a_new_folder_that_fails_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def fail_for_the_new_one(source: Path, target: Path) -> None:
        if str(source).endswith(TEMPORARY_SUFFIX):
            _raise_disk_error()
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_for_the_new_one)
    with pytest.raises(WriteError, match="no space left"):
        _write_folder(tmp_path / "c", "new")
    assert list(tmp_path.iterdir()) == []


def test_an_old_folder_that_cannot_be_removed_keeps_nobody_from_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_folder(tmp_path / "c", "old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", _raise_disk_error)
        _write_folder(tmp_path / "c", "new")
    assert (tmp_path / "c" / "weights").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "c.replaced"]
    _write_folder(tmp_path / "c", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_written_folder_has_the_modes_that_the_umask_leaves_and_the_umask_stays(tmp_path: Path) -> None:
    """Some libraries make their files for the owner alone; folders can still be entered."""
    before = os.umask(0o026)
    try:
        with writing_folder(tmp_path / "c") as folder:
            (folder / "deep").mkdir()
            for name in ("weights", "deep/config"):
                (folder / name).touch(mode=0o600)
        after = os.umask(before)
    finally:
        os.umask(before)
    assert after == 0o026
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "c").rglob("*")}
    assert modes == {"weights": 0o640, "config": 0o640, "deep": 0o751}


def test_nothing_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = num_open()
    write_text(tmp_path / "file", "text")
    append_line(tmp_path / "ledger.jsonl", "line")
    _write_folder(tmp_path / "c", "new")
    copy_tree(tmp_path / "c", tmp_path / "copy")
    assert num_open() == before
    os.mkfifo(tmp_path / "pipe")
    regular = (tmp_path / "file").stat()
    monkeypatch.setattr(os, "lstat", lambda _: regular)
    with pytest.raises(OSError, match="not a file"):
        open_own(tmp_path / "pipe", os.O_RDONLY)
    assert num_open() == before, "nor what is refused only when it is open"


def test_files_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from align_cli.artifacts.files import write_text\n"
        "from align_cli.artifacts.store import read_json\n"
        "path = Path(sys.argv[1])\n"
        "write_text(path, '\"na\\u00efve\"')\n"
        "assert read_json(path) == 'na\\u00efve'\n"
    )
    latin = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.json")], env=latin, check=True)
    assert (tmp_path / "a.json").read_bytes() == '"naïve"'.encode()
