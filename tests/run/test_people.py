"""`align train` where a person labels: it stops with the command that labels, and goes on when all is judged."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import NO_EVALUATION, Align, MakeFolder, assert_refused, read_rows

CHANGES: dict[str, Any] = {
    **NO_EVALUATION,
    "labelers__me": {"kind": "person"},
    "method__sources": {"offline": {"mixing": 0.5}, "dpr": {"mixing": 0.5, "labeler": "me"}},
    "generate__prompts_per_round": 4,
    "rounds": 2,
}


def command_in(told: str) -> list[str]:
    """The command that an error names, for a shell."""
    return shlex.split(told.rpartition("label them by `")[2].partition("`")[0])[1:]


def fill(path: Path, side: str) -> None:
    rows = list(csv.DictReader(path.open(encoding="utf-8-sig", newline="")))
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows({**row, "verdict": side} for row in rows)


@pytest.mark.long
def test_a_run_stops_for_a_person_and_goes_on_when_all_is_judged(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, **CHANGES)
    for number in (1, 2):
        stopped = align("train", "recipe.yaml", cwd=folder)
        assert_refused(stopped)
        assert "labelers.me: 4 of 4 pairs wait for a person's verdict" in stopped.err
        assert "then run `align train` again, which goes on from there" in stopped.err
        label = command_in(stopped.err)
        assert label == [
            "label", "run/recipe.yaml", "--labeler", "me", "-i", f"run/rounds/00{number}/completions.jsonl",
        ]  # fmt: skip
        table = folder / f"pairs{number}.csv"
        assert align(*label, "--export", table.name, cwd=folder).code == 0
        fill(table, "left")
        done = align(*label, "--import", table.name, "--annotator", "ann", cwd=folder)
        assert "every pair has been judged" in done.err
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    for number in (1, 2):
        pairs = read_rows(folder / "run" / "rounds" / f"00{number}" / "preferences.jsonl")
        assert {(pair["labeler"], pair["verdicts"]["me"]) for pair in pairs} == {("me", 1.0)}
    ledger = read_rows(folder / "run" / "ledger.jsonl")
    (first, _) = [
        event["figures"]["labelers"]["me"] for event in ledger if event.get("stage") == "label" and "figures" in event
    ]
    assert (first["pairs"], first["annotators"], first["left_share"]) == (4, 1, 1.0)
    restarted = align("train", "recipe.yaml", "--restart", cwd=folder)  # the same samples: nobody is asked again
    assert restarted.code == 0, restarted.err


def test_a_smoke_run_asks_nobody(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, **CHANGES)
    done = align("train", "recipe.yaml", "--smoke", cwd=folder)
    assert done.code == 0, done.err
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluate.scorer=me"], "evaluate.scorer is 'me', which asks a person; in an evaluation nobody is asked"),
        (
            ["labelers.both={kind: combination, of: {me: 1, ours: 1}, by: vote}", "evaluate.scorer=both"],
            "evaluate.scorer is 'both', which asks a person; in an evaluation nobody is asked",
        ),
    ],
)
def test_a_person_scores_no_evaluation(
    overrides: list[str], words: str, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, **CHANGES)
    refused = align("check", "recipe.yaml", "--quick", *overrides, cwd=folder)
    assert_refused(refused)
    assert words in refused.err
