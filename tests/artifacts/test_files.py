"""Files and folders: whole or not there, whatever happens to who writes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts.files import TEMPORARY_SUFFIX, write_text, writing_folder


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
