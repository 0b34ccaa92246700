"""What align remembers from one start to the next: believed only where it is whole and for what it was found of."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from align_cli.artifacts import remembered

FOUND = {"counts": {"pairs": 3}, "text": "d\u00e9j\u00e0 vu"}


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "align"


def test_what_is_remembered_is_recalled_under_its_key_alone() -> None:
    key = remembered.key_of("rows", 1)
    assert remembered.recall(key) is None
    remembered.remember(key, FOUND)
    assert remembered.recall(key) == {"for": key, **FOUND}
    assert remembered.recall(remembered.key_of("rows", 2)) is None


def test_another_code_or_another_library_has_other_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = remembered.key_of("rows")
    monkeypatch.setattr(remembered, "version", lambda library: "0.0.1")
    remembered._code.cache_clear()
    with_other_libraries = remembered.key_of("rows")
    (tmp_path / "module.py").write_text("changed = True\n")
    monkeypatch.setattr(remembered.align_cli, "__file__", str(tmp_path / "__init__.py"))
    remembered._code.cache_clear()
    with_other_code = remembered.key_of("rows")
    remembered._code.cache_clear()
    assert len({before, with_other_libraries, with_other_code}) == 3


def test_a_torn_or_damaged_entry_is_none(caches: Path) -> None:
    key = remembered.key_of("rows")
    remembered.remember(key, FOUND)
    path = caches / f"{key}.json"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert remembered.recall(key) is None
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert remembered.recall(key) is None


def test_the_entry_of_another_key_is_none(caches: Path) -> None:
    key, other = remembered.key_of("rows"), remembered.key_of("other rows")
    remembered.remember(key, FOUND)
    (caches / f"{key}.json").rename(caches / f"{other}.json")
    assert remembered.recall(other) is None


def test_what_nobody_has_asked_for_in_a_month_goes(caches: Path) -> None:
    asked, unasked = remembered.key_of("asked"), remembered.key_of("unasked")
    for key in (asked, unasked):
        remembered.remember(key, FOUND)
        (caches / f"{key}.rows").write_text("rows")
    for path in caches.iterdir():
        os.utime(path, (0, time.time() - remembered.UNUSED_SECONDS - 60))
    assert remembered.recall(asked)
    remembered.remember(remembered.key_of("new"), FOUND)
    assert {path.stem for path in caches.iterdir()} == {asked, remembered.key_of("new")}
    assert (caches / f"{asked}.rows").is_file()


def test_nobody_else_can_look_into_it(caches: Path) -> None:
    remembered.remember(remembered.key_of("rows"), FOUND)
    assert stat.S_IMODE(caches.stat().st_mode) == 0o700


def test_where_nothing_can_be_written_nothing_is_remembered(caches: Path) -> None:
    caches.parent.write_text("a file where the folder should be")
    key = remembered.key_of("rows")
    remembered.remember(key, FOUND)
    assert remembered.recall(key) is None
