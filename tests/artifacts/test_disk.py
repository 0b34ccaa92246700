"""What is said of a disk that does not do what it is told, and what is no fault of the disk's."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from align_cli.artifacts.disk import WriteError, disk_error, writing
from align_cli.artifacts.files import write_text, writing_folder


def test_an_error_of_the_disk_is_worded_and_any_other_keeps_its_traceback(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("mine")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as caught:
        write_text(place / "below", "text")
    worded = disk_error(caught.value)
    assert worded is not None
    assert worded.faults[0].where == str(place / "below")
    assert disk_error(FileNotFoundError(2, "No such file or directory", "somewhere")) is None
    assert disk_error(PermissionError(13, "Permission denied")) is None
    assert disk_error(PermissionError(13, "Permission denied", "somewhere")) is not None


def test_what_a_library_says_of_the_disk_in_its_own_words_is_understood(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, writing_folder(tmp_path / "checkpoint") as folder:
        (folder / "half").write_text("half")
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert list(tmp_path.iterdir()) == []
    assert "checkpoint: cannot be written: the disk is full" in str(disk_error(caught.value))
    with pytest.raises(RuntimeError, match="unrelated"), writing(tmp_path):
        raise RuntimeError("unrelated")


def test_a_librarys_error_that_names_no_place_lies_in_the_temporary_directory() -> None:
    found = disk_error(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert str(found).startswith(f"{tempfile.gettempdir()}: cannot be written: the disk is full")
    assert disk_error(RuntimeError("unrelated")) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_a_disk_that_is_at_fault_is_told_also_where_nobody_knows_the_place(number: int) -> None:
    nowhere = disk_error(OSError(number, os.strerror(number)))
    assert nowhere is not None and nowhere.faults[0].where == ""
    assert not nowhere.faults[0].what.startswith("cannot be written")
    told = disk_error(OSError(number, os.strerror(number)), "somewhere")
    assert told is not None and told.faults[0].where == "somewhere"
    assert told.faults[0].what == f"cannot be written: {nowhere.faults[0].what}"


def test_an_error_knows_its_place_better_than_who_asks() -> None:
    found = disk_error(OSError(errno.ENOSPC, "No space left on device", "inner"), "outer")
    assert found is not None and found.faults[0].where == "inner"


def test_a_missing_right_is_told_where_the_place_is_known() -> None:
    for number in (errno.EACCES, errno.EPERM):
        assert disk_error(OSError(number, "")) is None
        assert disk_error(OSError(number, ""), "somewhere") is not None


def test_a_machine_without_a_temporary_folder_is_told_so() -> None:
    missing = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']")
    found = disk_error(missing)
    assert found is not None and found.faults[0].what == "there is no folder for temporary files"
    assert found.faults[0].hint == "free some space or set TMPDIR, then run the same command again"


def test_of_places_within_one_another_the_innermost_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError) as caught, writing(tmp_path), writing(tmp_path / "inner"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "inner")


def test_an_error_without_words_keeps_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="odd") as caught, writing(tmp_path):
        raise OSError("odd")
    assert str(disk_error(caught.value)) == (
        f"{tmp_path}: cannot be written: odd\nhint: look at what stands in this place, then run the same command again"
    )
