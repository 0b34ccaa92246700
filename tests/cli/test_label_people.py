"""`align label` where a person labels: at a terminal with a quit and a resume, by a table, by two people."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import Align, MakeFolder, assert_refused, read_rows, write_rows
from terminal import CTRL_C, terminal

from align_cli.artifacts.answers import Answers
from align_cli.artifacts.records import Completion
from align_cli.labelers.verdicts import Pair, Verdicts

NUM_PROMPTS = 4
LABEL = ("label", "recipe.yaml", "--labeler", "person", "-i", "completions.jsonl", "--annotator")
TWO = (
    "labelers.a={kind: person}",
    "labelers.b={kind: person}",
    "labelers.two={kind: combination, of: {a: 1, b: 1}, by: vote}",
)
SOURCES = {"dpr": {"mixing": 1.0, "labeler": "ours"}}


@pytest.fixture
def folder(make_folder: MakeFolder, make_completion: Callable[..., Completion], tmp_path: Path) -> Path:
    """A folder with a recipe whose labeler is a function, and completions to label: two answers to each prompt."""
    made = make_folder(tmp_path, method__sources=SOURCES, label={"ties": "keep"})
    completions = [
        make_completion(
            prompt, sample, prompt=f"prompt {prompt}.", completion=f" {'good' if sample else 'bad'} {prompt}."
        )
        for prompt in range(NUM_PROMPTS)
        for sample in range(2)
    ]
    write_rows(made / "completions.jsonl", [one.to_dict() for one in completions])
    return made


def pair(number: int) -> Pair:
    return Pair.of(f"prompt {number}.", f" bad {number}.", f" good {number}.")


def kept(folder: Path, labeler: str = "person") -> Verdicts:
    return Verdicts(Answers(folder / "run" / "answers" / f"{labeler}.jsonl"))


def chosen(folder: Path, name: str = "preferences.jsonl") -> list[tuple[str, float]]:
    return [(row["chosen"], row["label"]) for row in read_rows(folder / name)]


def filled(path: Path, verdicts: dict[int, str]) -> list[dict[str, str]]:
    """The rows of an exported table with verdicts on some prompts: `good`, `bad` or any other word."""
    rows = list(csv.DictReader(path.open(encoding="utf-8-sig", newline="")))
    for row in rows:
        word = verdicts.get(int(row["prompt"].split()[1].rstrip(".")), "")
        sides = {row[side].split()[0]: side for side in ("left", "right")}
        row["verdict"] = sides.get(word, word)
    return rows


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.mark.long
def test_somebody_labels_at_a_terminal_quits_and_goes_on(folder: Path) -> None:
    arguments = (*LABEL, "ann", "-o", "preferences.jsonl")
    with terminal(*arguments, cwd=folder, columns=80) as shown:
        frame = shown.until("quit")
        asked = [int(line.split()[1].rstrip(".")) for line in frame.splitlines() if line.startswith(" prompt ")]
        assert "0 of 4" in frame and len(asked) == 1
        shown.type(_key_for_good(frame))
        second = shown.until("quit")
        shown.type("u")
        assert "0 of 4" in shown.until("quit")
        shown.type(_key_for_good(frame))
        assert shown.until("quit").splitlines()[2:] == second.splitlines()[2:]
        shown.type("q")
        code, rest = shown.end()
        assert code == 0
        assert "ann: 1 of 4 pairs have a verdict" in rest
        assert "3 pairs wait for a verdict; what was judged is kept, to go on: align label recipe.yaml" in rest
        assert "-o preferences.jsonl" in rest
    assert not (folder / "preferences.jsonl").exists()
    assert kept(folder).of(pair(asked[0])) == {"ann": "second"}
    with terminal(*arguments, cwd=folder, columns=140) as shown:
        frame = shown.until("quit")
        assert "1 of 4" in frame
        shown.type("t")
        shown.until("quit")
        shown.type("s")
        frame = shown.until("quit")
        shown.type(_key_for_good(frame))
        shown.until("Enter finish")
        shown.type("\r")
        code, rest = shown.end()
        assert code == 0
        assert "ann: 3 of 4 pairs have a verdict, 1 of them a tie, 1 skipped" in rest
        assert "Traceback" not in rest
    labels = sorted(label for _, label in chosen(folder))
    assert labels == [0.5, 0.5, 1.0, 1.0]
    assert all(text.startswith(" good") for text, label in chosen(folder) if label == 1.0)
    rows = read_rows(folder / "preferences.jsonl")
    assert {row["labeler"] for row in rows} == {"person"}
    assert sorted(len(row["verdicts"]) for row in rows) == [0, 1, 1, 1]


def _key_for_good(frame: str) -> str:
    """Which key says that the good answer is better."""
    line = next(line for line in frame.splitlines() if "good" in line and "│" in line)
    return "l" if line.index("good") < line.index("│") else "r"


@pytest.mark.long
def test_ctrl_c_says_that_all_is_kept(folder: Path) -> None:
    with terminal(*LABEL, "ann", cwd=folder) as shown:
        shown.until("quit")
        shown.type("t")
        shown.until("1 of 4")
        shown.until("quit")
        shown.type(CTRL_C)
        code, rest = shown.end()
        assert code == 130
        assert "interrupted; what was judged is kept; the same command goes on" in rest
    assert sum(bool(kept(folder).of(pair(number))) for number in range(NUM_PROMPTS)) == 1


def test_where_there_is_no_terminal_nobody_is_asked_and_tables_are_named(folder: Path, align: Align) -> None:
    refused = align(*LABEL, "ann", "-o", "preferences.jsonl", cwd=folder)
    assert_refused(refused)
    assert refused.err.splitlines()[-2:] == [
        "labelers.person: 4 of 4 pairs wait for a person's verdict",
        "hint: name the completions with -i, and run it where standard input and error are a terminal; or let people "
        "label elsewhere: --export pairs.csv writes a table, --import pairs.csv takes its verdicts in",
    ]
    assert not (folder / "preferences.jsonl").exists()


def test_a_table_goes_out_and_comes_back_in_two_parts(folder: Path, align: Align) -> None:
    done = align(*LABEL, "ann", "--export", "pairs.csv", cwd=folder)
    assert (done.code, done.out) == (0, ""), done.err
    assert "4 pairs in pairs.csv: write left, right, tie or skip into the column verdict" in done.err
    again = align(*LABEL, "ann", "--export", "pairs.csv", cwd=folder)
    assert_refused(again)
    assert "pairs.csv: this is there already" in again.err
    write_table(folder / "half.csv", filled(folder / "pairs.csv", {0: "good", 2: "Tie "})[::-1])
    done = align(*LABEL, "ann", "--import", "half.csv", "-o", "preferences.jsonl", cwd=folder)
    assert (done.code, done.out) == (0, ""), done.err
    assert "half.csv: 2 verdicts of ann (1 " in done.err and "1 tie), 2 rows without one" in done.err
    assert "2 pairs wait for a verdict: fill in more, and take the file in again" in done.err
    assert not (folder / "preferences.jsonl").exists()
    rows = filled(folder / "pairs.csv", {1: "bad", 3: "s"})
    write_table(folder / "rest.csv", [row for row in rows if row["verdict"]])
    done = align(*LABEL, "ann", "--import", "rest.csv", "-o", "preferences.jsonl", cwd=folder)
    assert done.code == 0, done.err
    assert "2 verdicts of ann (" in done.err and "2 pairs are not in it" in done.err
    wanted = [(" good 0.", 1.0), (" bad 1.", 1.0), (" bad 2.", 0.5), (" bad 3.", 0.5)]
    assert chosen(folder) == wanted
    piped = align(*LABEL, "ann", cwd=folder)  # nobody has to be asked, so that a pipe will do
    assert piped.out == (folder / "preferences.jsonl").read_text(encoding="utf-8")


def test_nothing_is_taken_in_of_a_table_with_faults(folder: Path, align: Align) -> None:
    align(*LABEL, "ann", "--export", "pairs.csv", cwd=folder)
    rows = filled(folder / "pairs.csv", {0: "good", 1: "good", 2: "godo"})
    rows.append({**rows[0], "id": "pair-1"})
    rows.append({**next(row for row in rows if row["prompt"] == "prompt 1."), "verdict": "tie"})
    write_table(folder / "pairs.csv", rows)
    refused = align(*LABEL, "ann", "--import", "pairs.csv", cwd=folder)
    assert_refused(refused)
    for words in ("the verdict is 'godo'", "the id 'pair-1' is of no pair", "is tie here, and", "3 faults"):
        assert words in refused.err
    assert not (folder / "run" / "answers").exists()


def test_two_people_judge_the_same_pairs_and_their_agreement_is_told(folder: Path, align: Align) -> None:
    align(*LABEL, "ann", "--export", "pairs.csv", cwd=folder)
    write_table(folder / "anns.csv", filled(folder / "pairs.csv", dict.fromkeys(range(4), "good")))
    write_table(folder / "bobs.csv", filled(folder / "pairs.csv", {0: "good", 1: "good", 2: "bad", 3: "tie"}))
    align(*LABEL, "ann", "--import", "anns.csv", cwd=folder)
    done = align(*LABEL, "bob", "--import", "bobs.csv", "-o", "preferences.jsonl", "label.labels=soft", cwd=folder)
    assert done.code == 0, done.err
    assert "ann and bob agree on 50% of 4 pairs [" in done.err
    assert "Cohen's kappa 0.00 [" in done.err
    assert chosen(folder) == [(" good 0.", 1.0), (" good 1.", 1.0), (" bad 2.", 0.5), (" good 3.", 0.75)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--annotator", "ann"], "are for labelers of kind person; add --labeler person"),
        (["--labeler", "person", "--export", "a.csv", "--import", "b.csv"], "--export and --import are two commands"),
        (["--labeler", "person", "--export", "a.csv", "-o", "p.jsonl"], "--export writes no preferences"),
        (["--labeler", "person", "--annotator", " "], "--annotator is a name of 1 to 60 printable characters"),
        (["--labeler", "persn"], "labelers defines no such labeler"),
        (
            ["--labeler", "two", "--export", "a.csv", *TWO],
            "the labeler asks several people; a file is one's: add --labeler a or --labeler b",
        ),
    ],
    ids=["no person", "both ways", "no preferences", "no name", "unknown", "several"],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(
    options: list[str], words: str, folder: Path, align: Align
) -> None:
    refused = align("label", "recipe.yaml", "-i", "completions.jsonl", *options, cwd=folder)
    assert_refused(refused)
    assert words in " ".join(refused.err.replace("│", " ").split())


def test_any_labeler_of_the_recipe_may_take_the_place(folder: Path, align: Align) -> None:
    (folder / "short.py").write_text("def score(prompts, completions):\n    return [-len(c) for c in completions]\n")
    added = "labelers.short={kind: function, function: 'short.py:score'}"
    done = align("label", "recipe.yaml", "-i", "completions.jsonl", "--labeler", "short", added, cwd=folder)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert {(row["labeler"], row["chosen"].split()[0]) for row in rows} == {("short", "bad")}
