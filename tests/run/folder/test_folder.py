"""What a run's folder refuses, names and passes over: strangers, a second process, damage, leftovers."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import Stop
from run_fixtures import Align, MakeFolder, assert_refused, files_below, read_rows, times_below

from align_cli.run.folder import RunFolder


def remedy(place: str) -> str:
    """What is to be done about a damaged file: rounds before its own can be taken over into another run."""
    before = int(place.split("/")[0]) - 1
    fork = f", go on in another output_dir with the rounds before (--from run@{before})" if before >= 0 else ""
    return f"hint: restore it from a copy{fork}, or begin anew with --restart (removes the run in run)"


def test_a_folder_with_files_of_somebody_else_is_refused_and_left(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    (folder / "run").mkdir()
    for name in ("thesis.tex", "data.csv", "a.txt", "b.txt"):
        (folder / "run" / name).write_text("mine")
    for option in ([], ["--restart"]):
        refused = align("train", "recipe.yaml", *option, cwd=folder)
        assert_refused(refused)
        assert refused.err == (
            "run: output_dir holds files that are no run: a.txt, b.txt, data.csv\n"
            "hint: choose an empty or a new output_dir\n"
        )
    assert sorted(files_below(folder / "run")) == ["a.txt", "b.txt", "data.csv", "thesis.tex"]


def test_a_recipe_of_the_users_own_in_the_output_folder_is_not_overwritten(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    (folder / "run").mkdir()
    mine = Path(shutil.move(folder / "recipe.yaml", folder / "run" / "recipe.yaml"))
    written = mine.read_bytes()
    align("train", "run/recipe.yaml", cwd=folder, stop=Stop("manifest"))
    assert mine.read_bytes() == written


def test_an_output_folder_that_is_a_file_is_refused(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "run").write_text("mine")
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert refused.err == "run: output_dir is a file\nhint: choose another output_dir\n"
    assert (folder / "run").read_text() == "mine"


def test_an_output_folder_that_cannot_be_made_is_refused(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "file").write_text("mine")
    assert_refused(align("train", "recipe.yaml", "output_dir=file/run", cwd=folder))


def test_a_second_process_on_the_same_run_is_refused_by_the_firsts_pid(finished_copy: Path, align: Align) -> None:
    run = finished_copy / "run"
    with RunFolder(run).locked():
        before = files_below(run), times_below(run)
        for arguments in (["rounds=3"], ["seed=3", "--restart"]):
            refused = align("train", "recipe.yaml", *arguments, cwd=finished_copy)
            assert_refused(refused)
            assert f"run: the run is in use by {os.uname().nodename} pid {os.getpid()} since " in refused.err
            assert refused.err.endswith("hint: wait for it, or end it first\n")
        assert (files_below(run), times_below(run)) == before
        assert align("train", "recipe.yaml", cwd=finished_copy).code == 0  # to look at what is finished needs no lock
        assert align("status", "run", cwd=finished_copy).code == 0


def test_the_lock_of_a_dead_process_is_taken_over(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert align("train", "recipe.yaml", cwd=folder, stop=Stop("manifest")).code == -signal.SIGKILL
    left = (folder / "run" / ".lock").read_text()
    assert " pid " in left
    again = align("train", "recipe.yaml", cwd=folder, stop=Stop("manifest"))
    assert again.code == -signal.SIGKILL, again.err
    taken_over = (folder / "run" / ".lock").read_text()
    assert " pid " in taken_over
    assert taken_over != left


def delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "damaged"),
    [
        (delete, "000/checkpoint"),
        (delete, "002/checkpoint"),
        (delete, "002/checkpoint/optimizer.safetensors"),
        (alter, "000/checkpoint/config.json"),
        (alter, "002/checkpoint/model.safetensors"),
        (alter, "002/checkpoint/training_state.json"),
        (delete, "000/samples.jsonl"),
        (alter, "002/samples.jsonl"),
    ],
)
def test_a_damaged_artifact_is_named_when_it_is_used(
    finished_copy: Path, align: Align, damage: Callable[[Path], None], damaged: str
) -> None:
    rounds = finished_copy / "run" / "rounds"
    damage(rounds / damaged)
    refused = align("train", "recipe.yaml", "rounds=3", "-q", cwd=finished_copy)
    assert_refused(refused)
    what = (
        "the artifact is not what was written: its checksum differs from the manifest's"
        if (rounds / damaged).exists()
        else f"the {'file' if '/checkpoint/' in damaged else 'artifact'} is missing"
    )
    assert refused.err == f"run/rounds/{damaged}: {what}\n{remedy(damaged)}\n"


def test_a_file_that_was_put_into_a_checkpoint_is_named_when_it_is_used(finished_copy: Path, align: Align) -> None:
    (finished_copy / "run" / "rounds" / "002" / "checkpoint" / "adapter_config.json").write_text("{}")
    refused = align("train", "recipe.yaml", "rounds=3", "-q", cwd=finished_copy)
    assert_refused(refused)
    assert refused.err == (
        "run/rounds/002/checkpoint/adapter_config.json: this file is not of the checkpoint that was written, and may "
        "change what it is\nhint: remove it, then run the same command again\n"
    )


def test_a_manifest_without_a_checksum_of_its_own_is_refused(finished_copy: Path, align: Align) -> None:
    place = finished_copy / "run" / "rounds" / "001" / "manifest.json"
    manifest = json.loads(place.read_text())
    del manifest["checksum"]
    place.write_text(json.dumps(manifest))
    for command in (["train", "recipe.yaml"], ["status", "run"]):
        refused = align(*command, cwd=finished_copy)
        assert_refused(refused)
        assert refused.err == (
            "run/rounds/001/manifest.json: the manifest is not what was written: its own checksum is missing\n"
            f"{remedy('001/manifest.json')}\n"
        )


def test_completions_that_were_altered_before_they_were_labelled_are_refused(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    assert align("train", "recipe.yaml", cwd=folder, stop=Stop("ledger", 3)).code == -signal.SIGKILL
    completions = folder / "run" / "rounds" / "001" / "completions.jsonl"
    completions.write_text("".join(completions.read_text().splitlines(keepends=True)[:-1]))
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert "run/rounds/001/completions.jsonl: the artifact is not what was written" in refused.err


def test_leftovers_of_a_killed_process_are_passed_over(finished_copy: Path, three_rounds: Path, align: Align) -> None:
    run = finished_copy / "run"
    leftovers = ["recipe.yaml.partial", "rounds/002/manifest.json.partial", "rounds/003/completions.jsonl.partial"]
    for name in (*leftovers, "rounds/003/checkpoint.partial/model.safetensors", "rounds/003/evaluation.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{")
    assert align("train", "recipe.yaml", "rounds=3", cwd=finished_copy).code == 0
    assert not (run / "rounds/003/checkpoint.partial").exists()
    ours, theirs = files_below(run / "rounds"), files_below(three_rounds / "run" / "rounds")
    assert {name: content for name, content in ours.items() if not name.endswith(".partial")} == theirs


def test_a_ledger_that_was_cut_in_the_middle_of_a_line_is_read_up_to_there(finished_copy: Path, align: Align) -> None:
    ledger = finished_copy / "run" / "ledger.jsonl"
    num_events = len(read_rows(ledger))
    with ledger.open("a") as stream:
        stream.write('{"event": "start", "ti')
    shown = align("status", "run", "--json", cwd=finished_copy)
    assert len(json.loads(shown.out)["ledger"]) == num_events


def test_after_a_cut_line_the_ledger_goes_on_with_a_line_of_its_own(finished_copy: Path, align: Align) -> None:
    ledger = finished_copy / "run" / "ledger.jsonl"
    num_events = len(read_rows(ledger))
    with ledger.open("a") as stream:
        stream.write('{"event": "start", "ti')
    align("train", "recipe.yaml", "rounds=3", cwd=finished_copy, stop=Stop("manifest"))
    events = RunFolder(finished_copy / "run").ledger.events()[num_events:]
    assert [(event["event"], event["round"], event["stage"]) for event in events] == [("start", 3, "generate")]


@pytest.mark.parametrize(
    "text",
    ["", "{", "\udcff", *(pytest.param(text) for text in ("[]", "{}", '{"stages": {"sft": {}}}'))],
)
def test_a_broken_manifest_is_named(finished_copy: Path, align: Align, text: str) -> None:
    manifest = finished_copy / "run" / "rounds" / "001" / "manifest.json"
    manifest.write_bytes(text.encode(errors="surrogateescape"))
    for command in (["train", "recipe.yaml"], ["status", "run"]):
        refused = align(*command, cwd=finished_copy)
        assert_refused(refused)
        assert "run/rounds/001/manifest.json" in refused.err


@pytest.mark.parametrize("text", ["", "{", *(pytest.param(text) for text in ("[]", "{}", '{"round": "one"}'))])
def test_a_broken_evaluation_is_named(finished_copy: Path, align: Align, text: str) -> None:
    (finished_copy / "run" / "rounds" / "001" / "evaluation.json").write_text(text)
    for command in (["train", "recipe.yaml"], ["status", "run"]):
        refused = align(*command, cwd=finished_copy)
        assert_refused(refused)
        assert "run/rounds/001/evaluation.json" in refused.err


def test_what_a_killed_process_left_half_written_goes_when_the_folder_is_locked_again(finished_copy: Path) -> None:
    run = finished_copy / "run"
    for name in ("recipe.yaml.partial", "run.json.partial", "mine.partial"):
        (run / name).write_text("{")
    with RunFolder(run).locked():
        assert [path.name for path in run.glob("*.partial")] == ["mine.partial"]
