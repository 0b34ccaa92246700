"""A run that is killed, whenever it is, and taken up again ends in the bytes of one that was not."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Finished, Stop

STEPS = [
    "round 0 sft",
    "round 0 evaluate",
    *(f"round {number} {stage}" for number in (1, 2) for stage in ("generate", "label", "train", "evaluate")),
]

Align = Callable[..., Finished]
MakeFolder = Callable[..., Path]
Contents = Callable[[Path], dict[str, bytes]]


def same_artifacts(folder: Path, other: Path, contents: Contents) -> None:
    """Every artifact of two runs has the same bytes, and so has the recipe."""
    ours, theirs = contents(folder / "run" / "rounds"), contents(other / "run" / "rounds")
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert (folder / "run" / "recipe.yaml").read_bytes() == (other / "run" / "recipe.yaml").read_bytes()


def ledger(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "ledger.jsonl").read_text().splitlines()]


def test_killed_before_and_after_every_manifest_it_goes_on_to_the_same_bytes(
    make_folder: MakeFolder, align: Align, finished: Path, contents: Contents, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    for number, step in enumerate(STEPS):
        goes_on = f"run: going on after {STEPS[number - 1]}, with {step}" if number else f"run: begins with {step}"
        for moment in ("manifest", "ledger"):
            killed = align("train", "recipe.yaml", cwd=folder, stop=Stop(moment))
            assert killed.code == -signal.SIGKILL, killed.err
            assert killed.out == ""
            assert goes_on in killed.err.splitlines()
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0
    assert "run is finished: 2 rounds; raise rounds= to go on" in done.err.splitlines()
    same_artifacts(folder, finished, contents)
    starts = [f"round {event['round']} {event['stage']}" for event in ledger(folder) if event["event"] == "start"]
    assert starts == [step for step in STEPS for _ in range(2)]
