"""Checksums: every byte and every name counts, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from align_cli.artifacts.checksums import checksum


def write_folder(path: Path, weights: str, other: str) -> None:
    path.mkdir()
    (path / "weights").write_text(weights)
    (path / other).write_text(other)


def test_a_checksum_sees_every_byte_and_every_name(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    write_folder(folder, "weights", "other")
    seen = {checksum(folder)}
    (folder / "weights").write_text("weightz")
    seen.add(checksum(folder))
    (folder / "other").rename(folder / "another")
    seen.add(checksum(folder))
    (folder / "deep").mkdir()
    (folder / "another").rename(folder / "deep" / "another")
    seen.add(checksum(folder))
    (folder / "new").write_text("")
    seen.add(checksum(folder))
    assert len(seen) == 5


def test_a_checksum_does_not_depend_on_the_folders_own_name_or_on_times(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", "same", "other")
    write_folder(tmp_path / "b", "same", "other")
    os.utime(tmp_path / "b" / "weights", (0, 0))
    assert checksum(tmp_path / "a") == checksum(tmp_path / "b")


def test_a_files_checksum_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert checksum(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
