"""What is said of a disk that does not do what it is told, and what is no fault of the disk's."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_cli.artifacts.disk import disk_error, writing
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
