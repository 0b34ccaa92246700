"""Manifests that were edited and have a right checksum: nothing outside of the run is touched, no traceback shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import Align, assert_refused, files_below

from align_cli.run.folder.layout import MANIFEST
from align_cli.run.folder.manifest import write_manifest

Edit = Callable[[dict[str, Any]], object]
SHA = "0" * 64

EDITS: dict[str, Edit] = {
    "a name that leads out is let go": lambda train: train.update(dropped=["../../../precious"]),
    "a member that leads out is let go": lambda train: train.update(dropped=["checkpoint/../../../../precious"]),
    "an output leads out": lambda train: train["outputs"].update({"../../../precious/mine.txt": SHA}),
    "an output is absolute": lambda train: train["outputs"].update({"/etc/hostname": SHA}),
    "a member leads out": lambda train: train["members"]["checkpoint"].update({"../precious": SHA}),
    "members are a list": lambda train: train.update(members=[1]),
    "what was let go is a number": lambda train: train.update(dropped=5),
    "it goes on from a word": lambda train: train.update(continues_from="x"),
    "it goes on from nothing": lambda train: train.update(continues_from=None),
    "it goes on from a later round": lambda train: train.update(continues_from=7),
    "guards are a word": lambda train: train.update(guards="x"),
    "a guard said nothing": lambda train: train.update(guards=[{}]),
    "a key nobody knows": lambda train: train.update(more=1),
    "a checksum that is none": lambda train: train["outputs"].update({"training.jsonl": "x"}),
}


def edited(run: Path, edit: Edit) -> None:
    path = run / "rounds" / "001" / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    edit(manifest["stages"]["train"])
    write_manifest(path, manifest)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_manifest_that_is_none_is_refused_and_nothing_is_touched(
    edit: Edit, finished_copy: Path, align: Align
) -> None:
    precious = finished_copy / "precious"
    precious.mkdir()
    (precious / "mine.txt").write_text("mine")
    edited(finished_copy / "run", edit)
    before = files_below(finished_copy)
    for command in (
        ("train", "recipe.yaml"),
        ("train", "recipe.yaml", "rounds=3"),
        ("status", "run"),
        ("train", "recipe.yaml", "output_dir=fork", "--from", "run@1"),
    ):
        refused = align(*command, cwd=finished_copy)
        assert_refused(refused)
        assert "run/rounds/001/manifest.json: this is" in refused.err
    assert files_below(finished_copy) == before


def test_a_manifest_of_another_schema_is_refused(finished_copy: Path, align: Align) -> None:
    path = finished_copy / "run" / "rounds" / "001" / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    write_manifest(path, {**manifest, "schema_version": 99})
    for command in (("train", "recipe.yaml"), ("status", "run")):
        refused = align(*command, cwd=finished_copy)
        assert_refused(refused)
        assert "it was written with artifact schema 99, this is 1" in refused.err
