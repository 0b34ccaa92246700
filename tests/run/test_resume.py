"""Running a recipe again: what is finished stays, what changed is named, more rounds go on, --restart begins anew."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Stop
from run_fixtures import (
    LABELER,
    NO_EVALUATION,
    Align,
    MakeFolder,
    assert_refused,
    assert_same_runs,
    files_below,
    read_rows,
    times_below,
)

from align_cli.run.folder import RunFolder
from align_cli.run.folder.manifest import write_manifest

CHANGES = {
    "train.learning_rate=1e-4": "train.learning_rate was 0.0005 and is now 0.0001",
    "train.weight_decay=0.1": "train.weight_decay was None and is now 0.1",
    "method.beta=0.2": "method.beta was 0.1 and is now 0.2",
    "method.loss_type=ipo": "method.loss_type was 'sigmoid' and is now 'ipo'",
    "seed=7": "seed was 0 and is now 7",
    "policy.sft.max_steps=13": "policy.sft.max_steps was 12 and is now 13",
    "generate.max_new_tokens=12": "generate.max_new_tokens was 16 and is now 12",
    "generate.num_reference_generations=1": "generate.num_reference_generations was 0 and is now 1",
    "method.loss_type=[ipo]": "method.loss_type was 'sigmoid' and is now ['ipo']",
    "data.demonstrations=demonstrations.jsonl": "data.demonstrations was None and is now 'demonstrations.jsonl'",
    "train.source_grad_norms=never": "train.source_grad_norms was 'round' and is now 'never'",
    "evaluate.num_prompts=8": "evaluate.num_prompts was 16 and is now 8",
    "label.labels=soft": "label.labels was 'hard' and is now 'soft'",
    "data.preferences=eval_pairs.jsonl": "data.preferences was 'pairs.jsonl' and is now 'eval_pairs.jsonl'",
}


def test_a_finished_run_is_left_as_it_is(finished_copy: Path, align: Align) -> None:
    files, times = files_below(finished_copy), times_below(finished_copy)
    done = align("train", "recipe.yaml", cwd=finished_copy)
    assert done.code == 0
    assert done.err.splitlines()[0] == "run is finished: 2 rounds; raise rounds= to go on"
    assert [line.split()[0] for line in done.out.splitlines() if line.strip()[:1].isdigit()] == ["0", "1", "2"]
    assert files_below(finished_copy) == files
    assert times_below(finished_copy) == times


def test_a_finished_run_is_seen_to_be_finished_without_loading_torch(finished: Path) -> None:
    code = (
        "import sys\nfrom align_cli.cli.main import main\nsys.argv = ['align', 'train', 'recipe.yaml', '--json']\n"
        "try:\n    main()\nfinally:\n    print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=finished, capture_output=True, text=True, check=True)
    assert [evaluation["round"] for evaluation in json.loads(done.stdout)] == [0, 1, 2]
    modules = set(done.stderr.split())
    assert "align_cli.run.loop" in modules
    assert modules & {"torch", "transformers", "trl", "datasets", "accelerate"} == set()


@pytest.mark.parametrize("override", CHANGES)
def test_a_changed_key_is_refused_by_name_and_nothing_is_touched(finished: Path, align: Align, override: str) -> None:
    files, times = files_below(finished), times_below(finished)
    refused = align("train", "recipe.yaml", override, cwd=finished)
    assert_refused(refused)
    assert CHANGES[override] in refused.err
    assert files_below(finished) == files
    assert times_below(finished) == times


def as_an_earlier_align_wrote_it(folder: Path, *keys: str) -> None:
    """Let the finished stages of a run know nothing of some keys."""
    manifests = RunFolder(folder).manifests
    for number in manifests.rounds():
        manifest = manifests.of_round(number)
        for record in manifest["stages"].values():
            for key in keys:
                *sections, name = key.split(".")
                place = record["inputs"]["recipe"]
                for section in sections:
                    place = place.get(section, {})
                place.pop(name, None)
        write_manifest(folder / "rounds" / f"{number:03d}" / "manifest.json", manifest)


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("evaluate.temperature=0.5", "evaluate.temperature was None and is now 0.5"),
        ("evaluate.scorers=[ours]", "evaluate.scorers was None and is now ['ours']"),
    ],
)
def test_a_key_that_an_earlier_align_had_not_is_a_change_only_where_it_is_set(
    finished_copy: Path, align: Align, override: str, change: str
) -> None:
    new_keys = ("evaluate.scorers", "evaluate.temperature", "method.nll", "method.initial_reference")
    as_an_earlier_align_wrote_it(finished_copy / "run", *new_keys)
    assert align("train", "recipe.yaml", cwd=finished_copy).code == 0
    refused = align("train", "recipe.yaml", override, cwd=finished_copy)
    assert_refused(refused)
    assert change in refused.err


def test_the_refusal_names_every_changed_key_and_every_way_out(finished: Path, align: Align) -> None:
    overrides = ("generate.temperature=0.9", "method.sources.dpr.gradient=0.0")
    refused = align("train", "recipe.yaml", *overrides, cwd=finished)
    assert refused.err.splitlines()[-2:] == [
        "run: this folder holds another run: since round 0 evaluate was finished, "
        "generate.temperature was 1.0 and is now 0.9; label.ties was 'keep' and is now 'drop'; "
        "label.equal_texts was 'keep' and is now 'drop'",
        "hint: choose another output_dir for the new settings, put the old ones back (only rounds may be raised), or "
        "begin anew with --restart, which removes this run",
    ]


def test_a_file_that_reads_differently_now_is_refused_by_its_key(finished_copy: Path, align: Align) -> None:
    with (finished_copy / "pairs.jsonl").open("a") as stream:
        stream.write('{"prompt": "one", "chosen": "more", "rejected": "pair"}\n')
    files = files_below(finished_copy)
    refused = align("train", "recipe.yaml", cwd=finished_copy)
    assert_refused(refused)
    assert "the contents of data.preferences have changed" in refused.err
    assert files_below(finished_copy) == files


def test_a_labelers_file_that_reads_differently_now_is_refused_by_its_key(finished_copy: Path, align: Align) -> None:
    (finished_copy / "labeler.py").write_text(LABELER + "\n# better\n", encoding="utf-8")
    refused = align("train", "recipe.yaml", cwd=finished_copy)
    assert_refused(refused)
    assert "the contents of labelers.ours.function have changed" in refused.err


def test_a_file_under_another_name_is_another_recipe_even_if_it_reads_the_same(
    finished_copy: Path, align: Align
) -> None:
    shutil.copy(finished_copy / "pairs.jsonl", finished_copy / "same.jsonl")
    refused = align("train", "recipe.yaml", "data.preferences=same.jsonl", cwd=finished_copy)
    assert "data.preferences was 'pairs.jsonl' and is now 'same.jsonl'" in refused.err


def test_a_labeler_that_no_stage_uses_may_be_added_to_a_finished_run(finished_copy: Path, align: Align) -> None:
    added = 'labelers.spare={kind: function, function: "labeler.py:score"}'
    done = align("train", "recipe.yaml", added, cwd=finished_copy)
    assert done.code == 0, done.err


def test_a_run_may_go_on_with_less_memory_for_sampling(finished_copy: Path, align: Align) -> None:
    done = align("train", "recipe.yaml", "generate.batch_size=8", cwd=finished_copy)
    assert done.code == 0, done.err


def test_a_model_folder_under_the_same_name_with_other_weights_is_refused(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, policy={"model_name_or_path": "./model"}, rounds=1)
    shutil.copytree(finished / "run" / "rounds" / "000" / "checkpoint", folder / "model")
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    shutil.rmtree(folder / "model")
    shutil.copytree(finished / "run" / "rounds" / "002" / "checkpoint", folder / "model")
    refused = align("train", "recipe.yaml", cwd=folder)
    assert_refused(refused)
    assert "policy.model_name_or_path" in refused.err


def test_more_rounds_leave_the_finished_ones_as_they_are(finished: Path, three_rounds: Path) -> None:
    before, after = files_below(finished / "run" / "rounds"), files_below(three_rounds / "run" / "rounds")
    assert {name: after.get(name) for name in before} == before
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"003"}
    starts = [event for event in read_rows(three_rounds / "run" / "ledger.jsonl") if event["event"] == "start"]
    assert [event["stage"] for event in starts if event["round"] == 3] == ["generate", "label", "train", "evaluate"]
    assert "rounds: 3\n" in (three_rounds / "run" / "recipe.yaml").read_text()


@pytest.mark.long
def test_more_rounds_on_a_schedule_of_each_rounds_own_equal_a_run_that_was_planned_with_them(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    changes = {"train__schedule": "round", **NO_EVALUATION}
    raised = make_folder(tmp_path / "raised", **changes)
    planned = make_folder(tmp_path / "planned", rounds=3, **changes)
    assert align("train", "recipe.yaml", cwd=raised).code == 0
    done = align("train", "recipe.yaml", "rounds=3", cwd=raised)
    assert done.code == 0
    assert "run: going on after round 2 train, with round 3 generate" in done.err.splitlines()
    assert align("train", "recipe.yaml", cwd=planned).code == 0
    assert_same_runs(raised, planned)


def test_fewer_rounds_than_were_run_is_a_finished_run(finished_copy: Path, align: Align) -> None:
    files = files_below(finished_copy)
    done = align("train", "recipe.yaml", "rounds=1", cwd=finished_copy)
    assert done.code == 0
    assert done.err.splitlines()[0] == "run is finished: 1 round; raise rounds= to go on"
    assert files_below(finished_copy) == files


@pytest.mark.long
def test_restart_begins_anew_and_equals_a_fresh_run(
    make_folder: MakeFolder, finished_copy: Path, align: Align, tmp_path: Path
) -> None:
    fresh = make_folder(tmp_path / "fresh", seed=3, rounds=1)
    assert align("train", "recipe.yaml", cwd=fresh).code == 0
    (finished_copy / "run" / "notes.txt").write_text("mine")
    done = align("train", "recipe.yaml", "seed=3", "rounds=1", "--restart", cwd=finished_copy)
    assert done.code == 0
    assert done.err.splitlines()[0] == "run: begins with round 0 sft"
    assert_same_runs(finished_copy, fresh)
    assert len(read_rows(finished_copy / "run" / "ledger.jsonl")) == len(read_rows(fresh / "run" / "ledger.jsonl"))
    assert json.loads((finished_copy / "run" / "run.json").read_text())["seed"] == 3
    assert (finished_copy / "run" / "notes.txt").read_text() == "mine"


def test_a_restart_that_is_killed_goes_on_without_restart(finished_copy: Path, align: Align) -> None:
    assert align("train", "recipe.yaml", "seed=3", "--restart", cwd=finished_copy, stop=Stop("ledger")).code < 0
    again = align("train", "recipe.yaml", "seed=3", cwd=finished_copy, stop=Stop("manifest"))
    assert again.err.splitlines()[0] == "run: going on after round 0 sft, with round 0 evaluate"
    assert not (finished_copy / "run" / "rounds" / "001").exists()


@pytest.mark.long
def test_a_restart_that_is_ended_in_its_first_step_goes_on_as_it_says(
    make_folder: MakeFolder, finished_copy: Path, align: Align, tmp_path: Path
) -> None:
    fresh = make_folder(tmp_path / "fresh", seed=3, rounds=1)
    assert align("train", "recipe.yaml", cwd=fresh).code == 0
    keys = ("seed=3", "rounds=1")
    stop = Stop("warm-up step", 3, signal.SIGINT)
    ended = align("train", "recipe.yaml", *keys, "--restart", cwd=finished_copy, stop=stop)
    assert ended.code == 130
    assert "`align train` with the same recipe goes on where it stopped, without --restart" in ended.err
    done = align("train", "recipe.yaml", *keys, cwd=finished_copy)
    assert done.code == 0, done.err
    assert_same_runs(finished_copy, fresh)
    assert not (finished_copy / "run" / ".previous").exists()


def test_a_restart_that_fails_after_it_was_ended_brings_the_old_run_back(finished_copy: Path, align: Align) -> None:
    rounds = files_below(finished_copy / "run" / "rounds")
    stop = Stop("warm-up step", 3, signal.SIGINT)
    assert align("train", "recipe.yaml", "seed=3", "--restart", cwd=finished_copy, stop=stop).code == 130
    model = "policy={model_name_or_path: some-one/no-such-model}"
    assert_refused(align("train", "recipe.yaml", model, cwd=finished_copy))
    assert files_below(finished_copy / "run" / "rounds") == rounds
    assert "is finished" in align("train", "recipe.yaml", cwd=finished_copy).err


def test_a_restart_that_is_ended_in_its_first_step_loses_no_run_whose_recipe_comes_back(
    finished_copy: Path, align: Align
) -> None:
    before = files_below(finished_copy / "run" / "rounds")
    stop = Stop("warm-up step", 3, signal.SIGINT)
    assert align("train", "recipe.yaml", "seed=3", "--restart", cwd=finished_copy, stop=stop).code == 130
    done = align("train", "recipe.yaml", cwd=finished_copy)
    assert done.code == 0, done.err
    assert "run is finished: 2 rounds; raise rounds= to go on" in done.err
    assert files_below(finished_copy / "run" / "rounds") == before


def test_a_finished_run_is_finished_where_nobody_can_tidy_it(finished_copy: Path, align: Align) -> None:
    """As while another process is about it, or on a disk that is read-only."""
    (finished_copy / "run" / "work" / "002-evaluate").mkdir(parents=True)
    with RunFolder(finished_copy / "run").lock.held():
        done = align("train", "recipe.yaml", cwd=finished_copy)
    assert done.code == 0, done.err
    assert "run is finished: 2 rounds; raise rounds= to go on" in done.err


def test_a_restart_whose_inputs_cannot_be_used_leaves_the_old_run(finished_copy: Path, align: Align) -> None:
    files = files_below(finished_copy / "run")
    (finished_copy / "labeler.py").write_text("def score(prompts, completions):\n    return []\n")
    assert_refused(align("train", "recipe.yaml", "--restart", cwd=finished_copy))
    assert files_below(finished_copy / "run") == files


def test_a_restart_whose_model_cannot_be_loaded_leaves_the_old_run(finished_copy: Path, align: Align) -> None:
    files = files_below(finished_copy / "run")
    model = "policy={model_name_or_path: some-one/no-such-model}"
    assert_refused(align("train", "recipe.yaml", model, "--restart", cwd=finished_copy))
    now = files_below(finished_copy / "run")
    assert {name: now[name] for name in now if name != ".lock"} == {n: files[n] for n in files if n != ".lock"}


def test_a_run_that_was_moved_goes_on_where_it_lies_now(finished_copy: Path, align: Align, tmp_path: Path) -> None:
    (finished_copy / "run").rename(tmp_path / "moved")
    done = align("train", "recipe.yaml", f"output_dir={tmp_path / 'moved'}", cwd=finished_copy)
    assert done.code == 0
    assert done.err.splitlines()[0].endswith("moved is finished: 2 rounds; raise rounds= to go on")
