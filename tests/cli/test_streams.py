"""Data on standard output, talk and errors on standard error; --quiet leaves data, warnings and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_fixtures import LABELER, NO_EVALUATION, Align, MakeFolder, assert_refused

from align_cli.artifacts.records import Completion, Preference
from align_cli.cli.output import Output

ALIGN = Path(sys.executable).parent / "align"


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("quiet", [False, True])
def test_generate_writes_nothing_but_json_lines_to_standard_output(finished: Path, align: Align, quiet: bool) -> None:
    done = align("generate", "recipe.yaml", *(["--quiet"] if quiet else []), cwd=finished)
    assert done.code == 0, done.err
    assert [Completion.from_dict(row).round for row in rows(done.out)] == [1] * 32
    assert bool(done.err) is not quiet


@pytest.mark.parametrize("quiet", [False, True])
def test_label_writes_nothing_but_json_lines_to_standard_output(finished: Path, align: Align, quiet: bool) -> None:
    completions = finished / "run" / "rounds" / "001" / "completions.jsonl"
    done = align("label", "recipe.yaml", "-i", completions, *(["-q"] if quiet else []), cwd=finished)
    assert done.code == 0, done.err
    assert {Preference.from_dict(row).labeler for row in rows(done.out)} == {"ours"}
    assert bool(done.err) is not quiet


def test_evaluate_writes_one_json_document(finished: Path, align: Align) -> None:
    done = align("evaluate", "recipe.yaml", "-q", cwd=finished)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["round"] == 0


def test_train_talks_in_plain_lines_where_there_is_no_terminal(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    done = align("train", "recipe.yaml", "rounds=1", cwd=make_folder(tmp_path))
    assert done.code == 0
    begins = [line.split(":")[0] + ":" for line in done.err.splitlines()]
    assert begins == [
        "run:",
        "round 0 sft:",
        "round 0 evaluate:",
        "round 0:",
        "round 1 generate:",
        "round 1 label:",
        "round 1 train:",
        "round 1 evaluate:",
        "round 1:",
        "report:",
    ]
    assert "\x1b" not in done.err + done.out
    assert "\r" not in done.err


def test_a_quiet_run_shows_its_table_its_warnings_and_nothing_else(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, rounds=1, evaluate__scorer="ours")
    done = align("train", "recipe.yaml", "-q", cwd=folder)
    assert done.code == 0
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["warning"]
    assert "win vs initial" in done.out


def test_a_quiet_run_still_says_what_went_wrong(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "labeler.py").write_text("def score(prompts, completions):\n    return []\n")
    refused = align("train", "recipe.yaml", "-q", cwd=folder)
    assert_refused(refused)
    assert "the function returned 0 scores" in refused.err


def test_a_run_answers_in_json_if_asked(finished: Path, align: Align) -> None:
    done = align("train", "recipe.yaml", "--json", "-q", cwd=finished)
    assert [evaluation["round"] for evaluation in json.loads(done.out)] == [0, 1, 2]
    assert done.err == ""


def test_a_run_without_evaluations_shows_no_empty_table(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    done = align("train", "recipe.yaml", "rounds=1", cwd=make_folder(tmp_path, **NO_EVALUATION))
    assert (done.code, done.out) == (0, "")


def test_a_file_named_by_an_option_takes_the_data_and_a_note_says_so(finished_copy: Path, align: Align) -> None:
    done = align("generate", "recipe.yaml", "-o", "deep/down/completions.jsonl", cwd=finished_copy)
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[-1] == "32 lines in deep/down/completions.jsonl"
    written = (finished_copy / "deep/down/completions.jsonl").read_bytes()
    assert written == (finished_copy / "run/rounds/001/completions.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["-o", "next"], "-o and --policy go with --preferences"),
        (["--policy", "next"], "-o and --policy go with --preferences"),
        (["--preferences", "-"], "--preferences needs -o DIR"),
        (["--preferences", "-", "-o", "next", "--restart"], "--restart and --from are for whole runs"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    finished: Path, align: Align, arguments: list[str], what: str
) -> None:
    refused = align("train", "recipe.yaml", *arguments, cwd=finished)
    assert_refused(refused)
    assert what in " ".join(refused.err.replace("│", " ").split())


def test_what_a_labeler_prints_is_not_among_the_data(finished_copy: Path, align: Align) -> None:
    (finished_copy / "labeler.py").write_text(LABELER.replace("    return", "    print('scoring')\n    return"))
    completions = finished_copy / "run" / "rounds" / "001" / "completions.jsonl"
    done = align("label", "recipe.yaml", "-i", completions, cwd=finished_copy)
    assert done.code == 0, done.err
    assert rows(done.out)


def test_what_a_library_prints_while_a_run_is_at_work_is_not_among_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    """As transformers does with WANDB_MODE=offline."""
    talk = Output(as_json=True)
    with talk.reporter():
        print("[INFO] offline")  # noqa: T201 - in the place of a library
    talk.data([])
    said = capsys.readouterr()
    assert (json.loads(said.out), said.err) == ([], "[INFO] offline\n")


@pytest.mark.parametrize(
    "command",
    [
        "check --quick recipe.yaml",
        "status run",
        "label recipe.yaml -i many.jsonl",
        pytest.param("train recipe.yaml -q"),
    ],
)
def test_a_reader_that_stops_early_is_no_fault(finished_copy: Path, command: str) -> None:
    completions = (finished_copy / "run" / "rounds" / "001" / "completions.jsonl").read_text()
    (finished_copy / "many.jsonl").write_text(completions * 20)
    script = f"set -o pipefail; {ALIGN} {command} | true"
    done = subprocess.run(
        ["bash", "-c", script], cwd=finished_copy, env=os.environ, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipeError" not in done.stderr
    assert done.returncode in {0, 141}


def test_text_that_a_model_or_a_dataset_wrote_cannot_drive_the_terminal(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    body = "raise ValueError('\\x1b]0;owned\\x07' + completions[0])"
    (folder / "labeler.py").write_text(f"def score(prompts, completions):\n    {body}\n")
    refused = align("train", "recipe.yaml", cwd=folder)
    assert refused.code == 2
    assert "\x1b" not in refused.err
    assert "\x07" not in refused.err
    assert "ValueError: \\x1b]0;owned\\x07" in refused.err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_talk_is_there_when_it_is_said_however_the_interpreter_was_told_to_buffer(unbuffered: str) -> None:
    program = """
import os
from align_cli.cli.output import Output
from align_cli.cli.streams import prepare_streams
prepare_streams()
Output().note("half is done")
os._exit(0)  # nothing is written out at the end
"""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "half is done\n"
