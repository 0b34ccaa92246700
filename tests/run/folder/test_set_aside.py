"""The run that `--restart` puts aside: killed before or after any move or removal, one whole run is found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts import files
from align_cli.errors import RunError
from align_cli.run.folder import RunFolder
from align_cli.run.folder.layout import LEDGER, LINEAGE, MANIFEST, RECIPE, ROUNDS, RUN, WORK

OLD = {
    LEDGER: "old ledger",
    RECIPE: "old recipe",
    RUN: "{}",
    f"{ROUNDS}/000/samples.jsonl": "old samples",
    f"{ROUNDS}/001/preferences.jsonl": "old preferences",
    f"{WORK}/002-train/step-1": "old work",
}
NEW = {
    LEDGER: "new ledger",
    LINEAGE: '{"run": "elsewhere", "round": 0}',
    RECIPE: "new recipe",
    RUN: '{"new": true}',
    f"{ROUNDS}/000/samples.jsonl": "new samples",
}


class KilledError(BaseException):
    """The process is no more; what it would have done afterwards does not happen."""


def write(folder: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@contextmanager
def killed_at(nth: int, monkeypatch: pytest.MonkeyPatch, when: str) -> Iterator[list[int]]:
    """The process dies before or after the `nth` change of the disk; how many there were is counted."""
    calls = [0]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == nth and when == "before":
                raise KilledError
            if calls[0] > nth:
                raise KilledError  # nothing is done after death
            result = change(*args, **kwargs)
            if calls[0] == nth:
                raise KilledError
            return result

        return counting

    with monkeypatch.context() as patched:
        for owner, name in ((os, "replace"), (os, "rename"), (os, "unlink"), (os, "rmdir"), (os, "mkdir")):
            patched.setattr(owner, name, counted(getattr(owner, name)))
        yield calls


def restart_and_undo(folder: Path) -> None:
    """What a `--restart` does that fails before its first step is done."""
    run = RunFolder(folder)
    with run.locked():
        run.put_aside()
        write(folder, NEW)
        run.bring_back()


def restart(folder: Path) -> None:
    """What a `--restart` does whose first step is done."""
    run = RunFolder(folder)
    with run.locked():
        run.put_aside()
        write(folder, NEW)
        write(folder, {f"{ROUNDS}/000/{MANIFEST}": "{}"})
        run.set_aside.drop()


def recover(folder: Path) -> dict[str, str]:
    """What the next process finds, and what comes of it: a new run that has begun may yet fail in its first step."""
    run = RunFolder(folder)
    with run.locked():
        if run.set_aside.is_there:
            begun = {name: text for name, text in contents(folder).items() if not name.startswith(".previous")}
            assert RUN in begun
            assert begun.items() <= NEW.items()
            run.bring_back()
    return contents(folder)


def num_changes(act: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    write(folder, OLD)
    with killed_at(10**6, monkeypatch, "before") as calls:
        act(folder)
    shutil.rmtree(folder)
    return calls[0]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_undone_restart_that_is_killed_at_any_change_leaves_the_old_run_whole(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = num_changes(restart_and_undo, tmp_path / "run", monkeypatch)
    assert total > 20
    for nth in range(1, total + 1):
        folder = tmp_path / f"run{nth}"
        write(folder, OLD)
        with pytest.raises(KilledError), killed_at(nth, monkeypatch, when):
            restart_and_undo(folder)
        assert recover(folder) == OLD, f"killed {when} change {nth} of {total}"
        assert not [path for path in folder.iterdir() if path.name.startswith(".previous")]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_again_while_it_is_put_in_order_it_is_still_whole(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = num_changes(restart_and_undo, tmp_path / "run", monkeypatch)
    for nth in range(1, total + 1):
        for again in (1, 2, 4, 7, 11):
            folder = tmp_path / f"run{nth}-{again}"
            write(folder, OLD)
            with pytest.raises(KilledError), killed_at(nth, monkeypatch, when):
                restart_and_undo(folder)
            try:
                with killed_at(again, monkeypatch, when):
                    recover(folder)
            except KilledError:
                pass
            assert recover(folder) == OLD, f"killed {when} change {nth} and then {again}"
            shutil.rmtree(folder)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_restart_that_is_killed_leaves_the_old_run_or_the_new_one_whole(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = num_changes(restart, tmp_path / "run", monkeypatch)
    found = set()
    for nth in range(1, total + 1):
        folder = tmp_path / f"run{nth}"
        write(folder, OLD)
        with pytest.raises(KilledError), killed_at(nth, monkeypatch, when):
            restart(folder)
        left = recover(folder)
        is_old = left == OLD
        assert is_old or left == {**NEW, f"{ROUNDS}/000/{MANIFEST}": "{}"}, f"killed {when} change {nth}"
        found.add(is_old)
    assert found == {True, False}


def test_a_new_run_that_has_begun_goes_on_and_the_old_one_waits_until_it_has_finished_a_step(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    run = RunFolder(tmp_path)
    with run.locked():
        run.put_aside()
        write(tmp_path, NEW)
    for _ in range(2):
        with RunFolder(tmp_path).locked():
            assert RunFolder(tmp_path).exists
            assert (tmp_path / ".previous" / RUN).read_text() == OLD[RUN]
    again = RunFolder(tmp_path)
    with again.locked():  # --restart once more: what has begun goes, the old run still waits
        again.put_aside()
        assert not again.exists
        assert (tmp_path / ".previous" / RUN).read_text() == OLD[RUN]
    with RunFolder(tmp_path).locked():
        pass
    assert contents(tmp_path) == OLD


@pytest.mark.parametrize("state", ["", ".partial", ".back", ".gone"])
def test_links_in_the_place_of_what_was_put_aside_are_not_followed(state: str, tmp_path: Path) -> None:
    write(tmp_path / "run", OLD)
    write(tmp_path / "mine", {"rounds/000/precious": "mine", "work/precious": "mine"})
    (tmp_path / "run" / f".previous{state}").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="this is a link"), RunFolder(tmp_path / "run").locked():
        pass
    assert contents(tmp_path / "mine") == {"rounds/000/precious": "mine", "work/precious": "mine"}
    assert {name: text for name, text in contents(tmp_path / "run").items() if ".previous" not in name} == OLD


def test_status_of_a_run_that_a_killed_process_has_put_aside_says_how_it_comes_back(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    run = RunFolder(tmp_path)
    with run.locked():
        run.put_aside()
    with pytest.raises(RunError, match="put this run aside") as refused:
        RunFolder(tmp_path).check_is_run()
    assert "`align train` with its recipe puts it in its place again" in str(refused.value)
    assert files.TEMPORARY_SUFFIX  # nothing of it was taken for a stranger's
    RunFolder(tmp_path).check_usable()
