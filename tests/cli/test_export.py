"""`align export --push-to-hub`, against a server on the loopback that speaks as the Hub does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, hub_server
from run_fixtures import files_below
from warm_children import MAIN

NO_PROXY = {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}


def export(cwd: Path, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`align export run DIR ...` in a fresh interpreter, with a home of its own, where nobody is logged in."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    given = {**inherited, **NO_PROXY, "HF_HOME": str(home / "hf"), **environment}
    command = [sys.executable, "-c", MAIN, "export", "run", *arguments]
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.long
def test_a_folder_is_uploaded_to_a_private_repository_in_the_place_of_the_model_that_was_there(
    finished: Path, tmp_path: Path
) -> None:
    hub = Hub()
    hub.files["me/mine"] = {"adapter_config.json": b"{}", "notes.txt": b"mine", "README.md": b"old"}
    hub.private["me/mine"] = True
    with hub_server(hub) as endpoint:
        done = export(
            finished, tmp_path, str(tmp_path / "out"), "--push-to-hub", "me/mine", HF_ENDPOINT=endpoint, HF_TOKEN=TOKEN
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / 'out'}\n"
        assert done.stderr.splitlines()[-1] == f"uploaded to {endpoint}/me/mine"
        again = export(
            finished, tmp_path, str(tmp_path / "other"), "--push-to-hub", "mine2", "--public", "-q",
            HF_ENDPOINT=endpoint, HF_TOKEN=TOKEN,
        )  # fmt: skip
        assert again.returncode == 0, again.stderr
    written = files_below(tmp_path / "out")
    assert hub.files["me/mine"] == {**written, "notes.txt": b"mine"}
    assert b"# me/mine" in written["README.md"]
    assert hub.private == {"me/mine": True, "me/mine2": False}
    assert TOKEN not in done.stderr


@pytest.mark.long
def test_a_new_repository_is_private(finished: Path, tmp_path: Path) -> None:
    hub = Hub()
    with hub_server(hub) as endpoint:
        done = export(
            finished, tmp_path, str(tmp_path / "out"), "--push-to-hub", "me/new", HF_ENDPOINT=endpoint, HF_TOKEN=TOKEN
        )
    assert done.returncode == 0, done.stderr
    assert hub.private == {"me/new": True}


@pytest.mark.parametrize(
    ("repository", "environment", "words"),
    [
        ("me/mine", {}, "nobody is logged in to the Hub on this machine\nhint: log in with `hf auth login`"),
        ("me/mine", {"HF_TOKEN": "hf_" + "z9y8x7w6v5" * 3}, "the Hub refuses it"),
        ("me/mine", {"HF_HUB_OFFLINE": "1", "HF_TOKEN": TOKEN}, "HF_HUB_OFFLINE is set"),
        ("me/mine", {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": TOKEN}, "the Hub cannot be reached"),
        ("not an id", {"HF_TOKEN": TOKEN}, "this is no id of the Hub"),
    ],
    ids=["no token", "a wrong token", "offline", "no network", "no id"],
)
def test_what_will_not_be_uploaded_is_told_before_anything_is_written(
    repository: str, environment: dict[str, str], words: str, finished: Path, tmp_path: Path
) -> None:
    with hub_server(Hub()) as endpoint:
        given = {"HF_ENDPOINT": endpoint, **environment}
        refused = export(finished, tmp_path, str(tmp_path / "out"), "--push-to-hub", repository, **given)
    assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
    assert refused.stderr.startswith(f"{repository}: ")
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_where_the_upload_is_refused_the_folder_stays_and_the_command_that_tries_again_is_told(
    finished: Path, tmp_path: Path
) -> None:
    with hub_server(Hub(may_write=False)) as endpoint:
        refused = export(
            finished,
            tmp_path,
            str(tmp_path / "out"),
            "--push-to-hub",
            "them/mine",
            HF_ENDPOINT=endpoint,
            HF_TOKEN=TOKEN,
        )
    assert refused.returncode == 2, refused.stderr
    assert "them/mine: the Hub refuses it: You don't have the rights to create a model" in refused.stderr
    assert f"`hf upload them/mine {tmp_path / 'out'}`" in refused.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
