"""Checksums: every byte and every name counts, and nothing else."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from align_cli.artifacts import checksums
from align_cli.artifacts.checksums import STRANGERS, checksum, folder_checksum, member_checksums
from align_cli.errors import DataError


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


SHA_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Names whose order as paths is not that as texts: `a/b` comes before `a.txt`."""
    (tmp_path / "c" / "a" / "empty").mkdir(parents=True)
    for name in ("a.txt", "a/b", "a-b", "ä"):
        (tmp_path / "c" / name).write_text("abc")
    return tmp_path / "c"


def test_a_folders_members_are_its_files_by_their_paths_in_order(folder: Path) -> None:
    assert list(member_checksums(folder).items()) == [(name, SHA_OF_ABC) for name in ("a/b", "a-b", "a.txt", "ä")]


def test_a_folders_checksum_is_that_of_its_members_in_whatever_order(folder: Path) -> None:
    """And the bytes that it is taken over are those of every manifest that was ever written."""
    written = "".join(f"{name}\0{SHA_OF_ABC}\n" for name in ("a/b", "a-b", "a.txt", "ä")).encode()
    assert checksum(folder) == hashlib.sha256(written).hexdigest()
    members = member_checksums(folder)
    assert folder_checksum(members) == checksum(folder)
    assert folder_checksum(dict(reversed(members.items()))) == checksum(folder)


def test_strangers_among_the_members_are_told_and_neither_followed_nor_waited_for(
    folder: Path, stranger: Callable[[Path], Path]
) -> None:
    before = member_checksums(folder)
    path = stranger(folder / "model.safetensors")
    if path.is_dir() and not path.is_symlink():
        return
    kind = "a link" if path.is_symlink() else "a pipe or a device"
    found = member_checksums(folder)
    assert kind in STRANGERS and found == {**before, "model.safetensors": kind}
    assert folder_checksum(found) != folder_checksum(before)


def test_a_model_folder_that_is_made_of_links_has_the_checksum_of_what_they_point_to(folder: Path) -> None:
    """As in the Hub's cache."""
    links = folder.with_name("snapshot")
    (links / "a").mkdir(parents=True)
    for name in member_checksums(folder):
        (links / name).symlink_to(folder / name)
    assert checksum(links) == checksum(folder)
    os.mkfifo(links / "pipe")
    (links / "broken").symlink_to(links / "nowhere")
    assert checksum(links) == checksum(folder)


@pytest.mark.parametrize("is_linked", [True, False])
def test_what_may_have_no_end_has_no_checksum(tmp_path: Path, never_waits: None, is_linked: bool) -> None:
    path = tmp_path / "prompts.jsonl"
    if is_linked:
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    with pytest.raises(DataError, match="cannot be read: it is a pipe or a device, not a file"):
        checksum(path)


def test_a_name_that_is_no_text_counts_too(folder: Path) -> None:
    before = checksum(folder)
    (folder / os.fsdecode(b"na\xefve")).write_text("abc")
    assert folder_checksum(member_checksums(folder)) == checksum(folder) != before


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that is worth remembering, and has been at rest."""
    (tmp_path / "large").write_bytes(b"a" * checksums.LARGE_BYTES)
    time.sleep(2 * checksums.REST_NANOSECONDS / 1e9)
    return tmp_path / "large"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    names: list[str] = []

    def read_digest(stream: IO[bytes], really: Callable[[IO[bytes]], str] = checksums._read_digest) -> str:
        names.append(Path(f"/proc/self/fd/{stream.fileno()}").readlink().name)
        return really(stream)

    monkeypatch.setattr(checksums, "_read_digest", read_digest)
    return names


def test_a_large_file_that_nobody_writes_to_is_read_once(large: Path, read: list[str]) -> None:
    first = checksum(large)
    large.parent.rename(large.parent.with_name("elsewhere"))
    again = member_checksums(large.parent.with_name("elsewhere"))
    assert again == {"large": first}
    assert read == ["large"]


def flip(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(checksums.LARGE_BYTES // 2)
        stream.write(b"b")


def flip_and_set_back(path: Path) -> None:
    stat = path.stat()
    flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace_by_as_old(path: Path) -> None:
    stat, other = path.stat(), path.with_name("other")
    other.write_bytes(b"b" * checksums.LARGE_BYTES)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [flip, flip_and_set_back, replace_by_as_old])
def test_a_large_file_that_is_changed_at_the_same_length_is_read_again(
    large: Path, read: list[str], change: Callable[[Path], None]
) -> None:
    before = checksum(large)
    change(large)
    assert checksum(large) == hashlib.sha256(large.read_bytes()).hexdigest() != before
    assert read == ["large", "large"]


def test_a_change_within_a_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "large"
    for number in range(50):
        content = bytes([number]) * checksums.LARGE_BYTES
        with path.open("r+b" if number else "wb") as stream:
            stream.write(content)
        assert checksum(path) == hashlib.sha256(content).hexdigest()
