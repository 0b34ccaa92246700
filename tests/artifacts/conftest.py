from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Stranger = Callable[[Path], Path]


@pytest.fixture
def never_waits() -> Iterator[None]:
    """Ends a test that waits for the other end of a pipe."""

    def give_up(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["link", "broken link", "link to a folder", "pipe", "folder"])
def stranger(request: pytest.FixtureRequest, tmp_path: Path, never_waits: None) -> Iterator[Stranger]:
    """Puts something else in the place of a file; what a link points to must be as it was when the test is over."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")

    targets = {"link": outside / "mine.txt", "broken link": outside / "new.txt", "link to a folder": outside}

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "folder":
            path.mkdir()
            (path / "inner").write_text("inner")
        else:
            path.symlink_to(targets[request.param])
        return path

    yield put
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("mine.txt", "mine")]
