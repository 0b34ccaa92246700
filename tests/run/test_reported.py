"""What a report tells of runs as they are: finished, killed, forked, without evaluations; what it leaves as it was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from forked import Stop
from run_fixtures import NO_EVALUATION, Align, MakeFolder, assert_refused, assert_same_runs, files_below, read_rows

from align_cli.run import reported
from align_cli.run.reported import leave_report, report_on


def told_of(folder: Path, name: str = "run") -> dict[str, Any]:
    """The data of a report on one run."""
    run: dict[str, Any] = report_on([folder / name])["runs"][0]
    return run


def test_a_report_holds_what_the_artifacts_hold(finished: Path) -> None:
    run, rounds = told_of(finished), finished / "run" / "rounds"
    assert (run["state"], run["steps"]) == ("finished", {"finished": 10, "planned": 10, "next": "none"})
    assert [one["round"] for one in run["rounds"]] == run["samples"]["rounds"] == [0, 1, 2]
    trained = run["training"]["columns"]["rounds"]
    for number in (0, 1, 2):
        evaluation = json.loads((rounds / f"{number:03d}" / "evaluation.json").read_text(encoding="utf-8"))
        shown = run["rounds"][number]
        for name in ("policy", "num_prompts", "reward", "length", "eos_rate", "distinct_2"):
            assert shown[name] == evaluation[name]
        for opponent, wins in evaluation["against"].items():
            assert shown["against"][opponent].items() <= wins.items()
            assert "length_controlled_win_rate" in shown["against"][opponent]
        samples, columns = read_rows(rounds / f"{number:03d}" / "samples.jsonl"), run["samples"]["by_round"][number]
        assert run["samples"]["prompts"] == [row["prompt"] for row in samples]
        assert columns["texts"] == [row["completion"] for row in samples]
        assert columns["ids"] == [row["completion_ids"] for row in samples]
        assert columns["logps"] == [[round(100 * logp) for logp in row["logps"]] for row in samples]
        assert columns["scores"]["hidden"] == pytest.approx([row["scores"]["hidden"] for row in samples], rel=1e-5)
        steps = read_rows(rounds / f"{number:03d}" / "training.jsonl")
        if number:
            losses = [loss for loss, of in zip(trained["loss"], trained["round"], strict=True) if of == number]
            assert losses == pytest.approx([step["loss"] for step in steps], rel=1e-5)
    texts = {row["completion"] for row in read_rows(rounds / "000" / "samples.jsonl")}
    ids = run["samples"]["by_round"][0]["ids"][0]
    assert "".join(run["samples"]["tokens"][str(one)] for one in ids).removesuffix("<eos>") in texts
    ledger = [json.loads(line) for line in (finished / "run" / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    spent = [event["seconds"] for event in ledger if event["event"] == "finish"]
    assert sum(total["seconds"] for total in run["stages"]["totals"]) == pytest.approx(sum(spent))


def test_a_run_leaves_its_report_and_whoever_reads_it_changes_nothing(finished_copy: Path, align: Align) -> None:
    left = json.loads((finished_copy / "run" / "report.json").read_text(encoding="utf-8"))
    before = files_below(finished_copy)
    again = align("train", "recipe.yaml", cwd=finished_copy)
    assert again.code == 0
    assert "report" not in again.err
    shown = align("report", "run", "-o", "elsewhere.html", cwd=finished_copy)
    assert (shown.code, shown.out) == (0, "elsewhere.html\n")
    after = files_below(finished_copy)
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == ["elsewhere.html", "elsewhere.json"]
    assert json.loads(after["elsewhere.json"])["runs"] == left["runs"]


@pytest.mark.long
def test_a_killed_run_is_told_of_as_far_as_it_is_and_ends_in_the_same_artifacts(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "killed")
    assert align("train", "recipe.yaml", cwd=folder, stop=Stop("manifest", within="round 2 train")).code < 0
    run = told_of(folder)
    assert (run["state"], run["steps"]["next"]) == ("interrupted", "round 2 train")
    assert [one["round"] for one in run["rounds"]] == [0, 1]
    assert set(run["training"]["columns"]["rounds"]["round"]) == {1}
    assert run["stages"]["unfinished"] == 1
    done = align("report", "run", cwd=folder)
    assert done.code == 0, done.err
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    assert_same_runs(folder, finished)
    assert told_of(folder)["state"] == "finished"
    left = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    assert left["runs"][0]["state"] == "finished"


@pytest.mark.long
def test_a_run_that_was_killed_before_its_first_step_has_an_empty_report(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    assert align("train", "recipe.yaml", cwd=folder, stop=Stop("manifest")).code < 0
    run = told_of(folder)
    assert (run["rounds"], run["samples"], run["chosen"]["round"]) == ([], None, None)
    assert align("report", "run", cwd=folder).code == 0
    assert "No round has been evaluated" in (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert_refused(align("samples", "run", cwd=folder))


def test_a_run_without_evaluation_shows_its_training(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, **NO_EVALUATION, rounds=1)
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    run = told_of(folder)
    assert (run["rounds"], run["samples"]) == ([], None)
    assert run["chosen"] == {
        "round": 1,
        "why": "the last, since no evaluation compares rounds with the initial policy",
    }
    assert len(run["training"]["columns"]["rounds"]["loss"]) == 3
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "the recipe has no <code>data.eval_prompts</code>" in page


def test_a_fork_names_its_origin_and_has_the_rounds_that_it_took_over(
    finished_copy: Path, align: Align, tmp_path: Path
) -> None:
    forked = align("train", "recipe.yaml", "output_dir=fork", "method.beta=0.2", "--from", "run@1", cwd=finished_copy)
    assert forked.code == 0, forked.err
    run = told_of(finished_copy, "fork")
    assert run["lineage"][0]["what"] == "forked from"
    assert run["lineage"][0]["name"].endswith("run@1")
    assert [one["round"] for one in run["rounds"]] == [0, 1, 2]
    assert {total["stage"]: total["times"] for total in run["stages"]["totals"]} == {
        "generate": 1,
        "label": 1,
        "train": 1,
        "evaluate": 1,
    }
    both = align("report", "run", "fork", "-o", "both.html", cwd=finished_copy)
    assert both.code == 0, both.err
    page = (finished_copy / "both.html").read_text(encoding="utf-8")
    assert page.count("<article") == 2
    assert [one["path"] for one in json.loads((finished_copy / "both.json").read_text())["runs"]] == ["run", "fork"]


def test_a_study_is_told_of_by_its_runs(finished_copy: Path, align: Align, tmp_path: Path) -> None:
    study = tmp_path / "study"
    for name in ("beta-0.1/seed-0", "beta-0.2/seed-0"):
        shutil.copytree(finished_copy / "run", study / "runs" / name)
    (study / "study.yaml").write_text("recipe: recipe.yaml\n")
    done = align("report", "study", cwd=tmp_path)
    assert (done.code, done.out) == (0, "study/report.html\n")
    told = json.loads((study / "report.json").read_text(encoding="utf-8"))
    assert [run["path"] for run in told["runs"]] == ["study/runs/beta-0.1/seed-0", "study/runs/beta-0.2/seed-0"]
    assert told["made"]["command"] == "align report study"
    shutil.rmtree(study / "runs")
    assert_refused(align("report", "study", cwd=tmp_path))


@pytest.mark.long
def test_a_run_that_a_guard_stops_leaves_its_report(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, guards={"kl": {"above": 1e-9, "action": "stop"}})
    stopped = align("train", "recipe.yaml", cwd=folder)
    assert stopped.code not in (0, 1)
    left = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))["runs"][0]
    assert (left["state"], left["steps"]["next"]) == ("stopped", "round 2 generate")
    assert [(alert["round"], alert["guard"], alert["action"]) for alert in left["alerts"]][:1] == [(1, "kl", "stop")]
    for name in ("report.html", "report.json"):
        (folder / "run" / name).unlink()
    before = files_below(folder)
    assert align("train", "recipe.yaml", cwd=folder).code == stopped.code
    assert files_below(folder) == before


def test_a_guards_word_stands_in_the_report_of_the_round(make_folder: MakeFolder, align: Align, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, rounds=1, guards={"kl": {"above": 1e-9, "action": "warn"}})
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    alerts = [alert for alert in told_of(folder)["alerts"] if alert["guard"] == "kl"]
    assert [(alert["round"], alert["action"]) for alert in alerts] == [(1, "warn")]
    assert alerts[0]["message"].startswith("KL to the reference is")


@pytest.mark.long
@pytest.mark.parametrize("place", ["report.html", "report.json"])
def test_a_report_that_cannot_be_written_fails_no_run(
    make_folder: MakeFolder, align: Align, tmp_path: Path, place: str
) -> None:
    folder = make_folder(tmp_path, rounds=1)
    (folder / "run").mkdir()
    assert align("train", "recipe.yaml", cwd=folder, stop=Stop("manifest")).code < 0
    (folder / "run" / place).mkdir()
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert "warning: the report was not written: " in done.err
    assert "`align report run` makes it" in done.err


def test_whatever_goes_wrong_in_a_report_the_user_is_told_in_one_line(
    finished_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(facts: object) -> str:
        raise RuntimeError("a bug of the page\nwith details")

    monkeypatch.setattr(reported, "report_page", broken)
    (finished_copy / "run" / "report.html").unlink()
    said: list[str] = []
    leave_report(finished_copy / "run", pytest.fail, said.append)
    assert said == [f"the report was not written: a bug of the page; `align report {finished_copy / 'run'}` makes it"]


def test_a_newer_event_has_the_report_written_anew(finished_copy: Path) -> None:
    run, said = finished_copy / "run", list[str]()
    leave_report(run, said.append, pytest.fail)
    assert said == []
    os.utime(run / "ledger.jsonl")
    leave_report(run, said.append, pytest.fail)
    assert said == [f"report: {run / 'report.html'}"]


def test_another_run_takes_the_reports_place_with_the_rest(finished_copy: Path, align: Align) -> None:
    old = (finished_copy / "run" / "report.json").read_bytes()
    done = align("train", "recipe.yaml", "seed=3", "rounds=1", "--restart", cwd=finished_copy)
    assert done.code == 0, done.err
    new = json.loads((finished_copy / "run" / "report.json").read_text(encoding="utf-8"))
    assert new["runs"][0]["method"]["seed"] == 3 != json.loads(old)["runs"][0]["method"]["seed"]


def test_a_run_that_is_put_aside_takes_its_report_along(finished_copy: Path, align: Align) -> None:
    stop = Stop("manifest")
    assert align("train", "recipe.yaml", "seed=3", "--restart", cwd=finished_copy, stop=stop).code < 0
    assert not (finished_copy / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere"),
        (["run", "-o", "rounds.json"], "its data is written beside it"),
        (["run", "run"], "name a file with -o FILE.html"),
        (["run", "-o", "run"], "the output is a folder"),
        (["run", "-o", "-"], "a page goes into a file"),
    ],
)
def test_what_makes_no_report_is_refused(finished: Path, align: Align, arguments: list[str], said: str) -> None:
    refused = align("report", *arguments, cwd=finished)
    assert refused.code == 2
    assert said in " ".join(refused.err.replace("│", " ").split())
    assert refused.out == ""


@pytest.mark.parametrize("damaged", ["samples.jsonl", "training.jsonl", "evaluation.json"])
def test_a_damaged_artifact_is_named(finished_copy: Path, align: Align, damaged: str) -> None:
    with (finished_copy / "run" / "rounds" / "001" / damaged).open("ab") as stream:
        stream.write(b" ")
    refused = align("report", "run", cwd=finished_copy)
    assert_refused(refused)
    assert f"001/{damaged}" in refused.err


def test_samples_are_shown_prompt_by_prompt_and_round_by_round(finished: Path, align: Align) -> None:
    samples = {
        number: read_rows(finished / "run" / "rounds" / f"{number:03d}" / "samples.jsonl") for number in (0, 1, 2)
    }
    shown = align("samples", "run", "-n", "2", "--rounds", "all", cwd=finished)
    assert shown.code == 0, shown.err
    assert shown.err == "2 of 16 prompts\n"
    lines = [line for line in shown.out.splitlines() if line.startswith("row")]
    assert lines == [f"row {row['prompt_index']}: {row['prompt']}" for row in samples[0][:2]]
    told = json.loads(align("samples", "run", "--json", "--rounds", "1,2", "-n", "16", cwd=finished).out)
    assert [one["responses"][1]["completion"] for one in told] == [row["completion"] for row in samples[2]]
    gains = json.loads(align("samples", "run", "--json", "--mode", "gain", cwd=finished).out)
    moved = [one["responses"][1]["scores"]["hidden"] - one["responses"][0]["scores"]["hidden"] for one in gains]
    assert moved == sorted(moved, reverse=True)
    assert all(gain > 0 for gain in moved)
    refused = align("samples", "run", "--rounds", "7", cwd=finished)
    assert_refused(refused)
    assert "there are 0, 1, 2" in refused.err


def test_a_report_of_the_runs_folder_on_standard_output_is_its_data(finished: Path, align: Align) -> None:
    shown = align("report", "run", "--json", cwd=finished)
    assert shown.code == 0
    left = json.loads((finished / "run" / "report.json").read_text(encoding="utf-8"))
    assert json.loads(shown.out)["runs"] == left["runs"]
