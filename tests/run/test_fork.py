"""`align train other.yaml --from RUN@K`: another run that begins with the first rounds of this one.

What is taken over is the origin's, byte for byte; what comes after is the new recipe's. The origin stays as it is.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from forked import Finished, Stop
from run_fixtures import (
    NO_EVALUATION,
    OFFLINE_ONLY,
    Align,
    MakeFolder,
    assert_refused,
    files_below,
    read_rows,
    times_below,
)
from safetensors.torch import load_file

from align_cli.errors import RunError
from align_cli.run.folder import RunFolder
from align_cli.run.folder.lineage import Origin
from align_cli.run.fork import parse_origin
from align_cli.stages.base import CHECKPOINT, Artifact

INTO_FORK = ("train", "recipe.yaml", "output_dir=fork", "--from")
OFFLINE_CHANGES = ("method.sources={offline: {mixing: 1.0}}", "data.prompts=null")
WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "training_state.json"


@pytest.fixture(scope="module")
def fork_of_first_round(
    finished: Path, align: Align, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finished, dict[str, int]]:
    """A copy of the finished folder, in it the fork of its first round with unchanged settings; what it said, and when
    the origin's files were last changed before. Shared."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("fork") / "copy"))
    times = times_below(folder / "run")
    return folder, align(*INTO_FORK, "run@1", cwd=folder), times


@pytest.fixture
def forked_copy(fork_of_first_round: tuple[Path, Finished, dict[str, int]], tmp_path: Path) -> Path:
    """A copy of the folder with origin and fork, to work on."""
    return Path(shutil.copytree(fork_of_first_round[0], tmp_path / "copy"))


def rounds_of(run: Path, *numbers: int) -> dict[str, bytes]:
    """Every file of these rounds, of all where none is named."""
    files = files_below(run / "rounds")
    return {name: files[name] for name in files if not numbers or int(name.split("/")[0]) in numbers}


def train_starts(run: Path) -> list[str]:
    return [
        f"{event['round']} {event['stage']}" for event in read_rows(run / "ledger.jsonl") if event["event"] == "start"
    ]


def test_a_fork_with_unchanged_settings_ends_in_the_bytes_of_its_origin(
    fork_of_first_round: tuple[Path, Finished, dict[str, int]], finished: Path
) -> None:
    folder, done, times = fork_of_first_round
    assert done.code == 0, done.err
    assert "fork: going on after round 1 evaluate, with round 2 generate" in done.err.splitlines()
    assert rounds_of(folder / "fork") == rounds_of(finished / "run")
    assert train_starts(folder / "fork") == ["2 generate", "2 label", "2 train", "2 evaluate"]
    assert files_below(folder / "run") == files_below(finished / "run")
    assert times_below(folder / "run") == times


def test_what_is_taken_over_is_a_copy_so_that_neither_run_can_damage_the_others(
    fork_of_first_round: tuple[Path, Finished, dict[str, int]],
) -> None:
    folder = fork_of_first_round[0]
    names = sorted(rounds_of(folder / "fork"))
    assert {f"000/checkpoint/{WEIGHTS}", f"001/checkpoint/{OPTIMIZER}", "001/completions.jsonl"} <= set(names)
    for name in names:
        assert not (folder / "fork" / "rounds" / name).samefile(folder / "run" / "rounds" / name)


def test_its_lineage_is_written_down_and_shown(
    fork_of_first_round: tuple[Path, Finished, dict[str, int]], align: Align
) -> None:
    folder = fork_of_first_round[0]
    assert json.loads((folder / "fork" / "lineage.json").read_text()) == {"run": "run", "round": 1}
    shown = align("status", "fork", cwd=folder)
    assert shown.out.splitlines()[:2] == [
        "fork: 10 of 10 steps finished, next: none",
        "forked from run after round 1",
    ]
    status = json.loads(align("status", "fork", "--json", cwd=folder).out)
    assert status["lineage"] == {"run": "run", "round": 1}
    assert status["finished"] == status["planned"]
    assert [evaluation["round"] for evaluation in status["evaluations"]] == [0, 1, 2]
    assert json.loads(align("status", "run", "--json", cwd=folder).out)["lineage"] is None


@pytest.mark.parametrize("origin", [(), ("--from", "run@1"), ("--from", "./run@1"), ("--from", "../copy/run@1")])
def test_run_again_it_goes_on_with_and_without_from(forked_copy: Path, align: Align, origin: tuple[str, ...]) -> None:
    again = align("train", "recipe.yaml", "output_dir=fork", *origin, cwd=forked_copy)
    assert again.code == 0, again.err
    assert again.err.splitlines()[0] == "fork is finished: 2 rounds; raise rounds= to go on"


def test_a_fork_goes_on_for_more_rounds_as_any_run_does(forked_copy: Path, align: Align, three_rounds: Path) -> None:
    done = align("train", "recipe.yaml", "output_dir=fork", "rounds=3", cwd=forked_copy)
    assert done.code == 0, done.err
    assert "fork: going on after round 2 evaluate, with round 3 generate" in done.err.splitlines()
    assert rounds_of(forked_copy / "fork") == rounds_of(three_rounds / "run")


def test_a_finished_fork_refuses_changed_settings_for_its_own_rounds_alone(forked_copy: Path, align: Align) -> None:
    refused = align("train", "recipe.yaml", "output_dir=fork", "train.learning_rate=1e-4", cwd=forked_copy)
    assert_refused(refused)
    assert "since round 2 train was finished, train.learning_rate was 0.0005 and is now 0.0001" in refused.err


def test_pruning_and_restarting_one_run_leaves_the_other_as_it_is(
    forked_copy: Path, align: Align, make_folder: MakeFolder
) -> None:
    fork, run = rounds_of(forked_copy / "fork"), rounds_of(forked_copy / "run")
    for number in (1, 2):
        RunFolder(forked_copy / "fork").manifests.drop(Artifact(number, CHECKPOINT))
    assert rounds_of(forked_copy / "run") == run
    RunFolder(forked_copy / "run").manifests.drop(Artifact(1, CHECKPOINT))
    kept = {name: content for name, content in fork.items() if "checkpoint" not in name or name.startswith("000")}
    now = rounds_of(forked_copy / "fork")
    assert {name: now[name] for name in now if "manifest" not in name} == {
        name: kept[name] for name in kept if "manifest" not in name
    }
    run = rounds_of(forked_copy / "run")
    restarted = align("train", "recipe.yaml", "output_dir=fork", "--restart", cwd=forked_copy, stop=Stop("rename", 2))
    assert restarted.code == -signal.SIGKILL
    assert not (forked_copy / "fork" / "lineage.json").exists()
    assert rounds_of(forked_copy / "run") == run
    fork = rounds_of(forked_copy / "fork")
    shutil.rmtree(forked_copy / "run")
    assert rounds_of(forked_copy / "fork") == fork  # the fork's own files stay when the origin goes


def read_state(run: Path, number: int) -> dict[str, Any]:
    return json.loads((run / "rounds" / f"{number:03d}" / "checkpoint" / STATE).read_text())


def test_new_settings_hold_from_the_next_round_on_and_the_moments_are_the_origins(
    finished_copy: Path, align: Align
) -> None:
    changes = [
        "train.learning_rate=1e-5", "train.weight_decay=0.25", "train.steps_per_round=1", "method.loss_type=ipo",
        "method.beta=0.7", *OFFLINE_CHANGES, "rounds=3",
    ]  # fmt: skip
    done = align(*INTO_FORK, "run@1", *changes, cwd=finished_copy)
    assert done.code == 0, done.err
    run, fork = finished_copy / "run", finished_copy / "fork"
    assert rounds_of(fork, 0, 1) == rounds_of(run, 0, 1)
    assert train_starts(fork)[:2] == ["2 train", "2 evaluate"]
    before, after = read_state(fork, 1), read_state(fork, 2)
    assert (before["global_step"], after["global_step"]) == (3, 4)
    groups = after["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.25, 0.0]
    assert [group["initial_lr"] for group in groups] == [1e-5, 1e-5]
    assert after["scheduler"]["base_lrs"] == [1e-5, 1e-5]
    # Linear decay over the 3 steps that were taken over and the 2 that are planned: 4/5 of the way, then the end.
    rows = read_rows(fork / "rounds" / "002" / "training.jsonl")
    assert rows[0]["learning_rate"] == pytest.approx(1e-5 * 2 / 5)
    moments = [load_file(fork / "rounds" / number / "checkpoint" / OPTIMIZER) for number in ("001", "002")]
    assert {float(value) for name, value in moments[1].items() if name.endswith(".step")} == {4.0}
    names = [name for name in moments[0] if name.endswith(".exp_avg_sq")]
    # One step's β2 is 0.999: what the origin's steps have gathered is nearly all there.
    assert all((moments[1][name] >= 0.998 * moments[0][name]).all() for name in names)
    assert any(bool((moments[0][name] > 0).any()) for name in names)
    refused = align("train", "recipe.yaml", "output_dir=fork", *changes, "--from", "run@0", cwd=finished_copy)
    assert_refused(refused)
    assert "this folder holds a run that was not forked from run@0" in refused.err


def test_moments_of_another_optimizer_are_not_taken_and_it_is_said(finished_copy: Path, align: Align) -> None:
    changes = ["train.optim=rmsprop", "train.steps_per_round=1", *OFFLINE_CHANGES]
    done = align(*INTO_FORK, "run@1", *changes, cwd=finished_copy)
    assert done.code == 0, done.err
    said = "round 2 train: train.optim is another one now; it begins without the old one's moments"
    assert said in done.err.splitlines()
    state = load_file(finished_copy / "fork" / "rounds" / "002" / "checkpoint" / OPTIMIZER)
    assert {name.partition(".")[2] for name in state} == {"step", "square_avg"}
    assert {float(value) for name, value in state.items() if name.endswith(".step")} == {1.0}


def kill_and_go_on(folder: Path, align: Align, nth: int, *origin: str) -> bool:
    """Kill the fork before a rename, and run it again; False where the taking-over had been done by then."""
    shutil.rmtree(folder / "fork", ignore_errors=True)
    killed = align(*INTO_FORK, "run@1", cwd=folder, stop=Stop("rename", nth))
    assert killed.code == -signal.SIGKILL, killed.err
    if (folder / "fork" / "recipe.yaml").exists():
        return False
    again = align("train", "recipe.yaml", "output_dir=fork", *origin, cwd=folder, stop=Stop("manifest"))
    assert again.code == -signal.SIGKILL, again.err
    assert "fork: going on after round 1 evaluate, with round 2 generate" in again.err.splitlines()
    assert rounds_of(folder / "fork", 0, 1) == rounds_of(folder / "run", 0, 1)
    assert json.loads((folder / "fork" / "lineage.json").read_text()) == {"run": "run", "round": 1}
    assert sorted(path.name for path in (folder / "fork" / "rounds").iterdir()) == ["000", "001", "002"]
    return True


@pytest.mark.parametrize(("nth", "origin"), [(4, ()), (6, ("--from", "run@1"))])
def test_a_fork_killed_while_it_took_rounds_over_goes_on_with_and_without_from(
    finished_copy: Path, align: Align, nth: int, origin: tuple[str, ...]
) -> None:
    assert kill_and_go_on(finished_copy, align, nth, *origin)


@pytest.mark.long
def test_a_fork_killed_at_any_write_goes_on(finished_copy: Path, align: Align) -> None:
    with_from = ("--from", "run@1")
    num_kills = 1
    assert kill_and_go_on(finished_copy, align, 1, *with_from)  # of lineage.json: there is nothing to go on from yet
    while kill_and_go_on(finished_copy, align, num_kills + 1, *with_from[: 2 * (num_kills % 2)]):
        num_kills += 1
    assert num_kills == 7  # lineage, a manifest and a folder for each of two rounds, run.json, recipe.yaml


def test_a_fork_killed_while_it_took_rounds_over_may_begin_with_other_rounds(finished_copy: Path, align: Align) -> None:
    killed = align(*INTO_FORK, "run@1", cwd=finished_copy, stop=Stop("rename", 5))
    assert killed.code == -signal.SIGKILL
    assert (finished_copy / "fork" / "rounds" / "000").is_dir()
    assert not (finished_copy / "fork" / "run.json").exists()
    single = align("generate", "recipe.yaml", "output_dir=fork", cwd=finished_copy)
    assert_refused(single)
    assert single.err == "fork: a fork was interrupted in this folder\nhint: `align train` goes on with it\n"
    other = align(*INTO_FORK, "run@0", cwd=finished_copy, stop=Stop("manifest"))
    assert other.code == -signal.SIGKILL
    fork = finished_copy / "fork"
    assert json.loads((fork / "lineage.json").read_text()) == {"run": "run", "round": 0}
    assert sorted(path.name for path in (fork / "rounds").iterdir()) == ["000", "001"]
    assert not (fork / "rounds" / "001" / "manifest.json").exists()


def test_restart_removes_what_an_interrupted_fork_left(finished_copy: Path, align: Align) -> None:
    assert align(*INTO_FORK, "run@1", cwd=finished_copy, stop=Stop("rename", 5)).code == -signal.SIGKILL
    begun = align("train", "recipe.yaml", "output_dir=fork", "--restart", cwd=finished_copy, stop=Stop("rename"))
    assert "fork: begins with round 0 sft" in begun.err.splitlines()
    assert not (finished_copy / "fork" / "lineage.json").exists()


@pytest.mark.long
def test_a_fork_of_a_fork_has_all_rounds_before_it(forked_copy: Path, align: Align, three_rounds: Path) -> None:
    done = align("train", "recipe.yaml", "output_dir=second", "rounds=3", "--from", "fork@2", cwd=forked_copy)
    assert done.code == 0, done.err
    assert rounds_of(forked_copy / "second") == rounds_of(three_rounds / "run")
    assert json.loads((forked_copy / "second" / "lineage.json").read_text()) == {"run": "fork", "round": 2}
    shutil.rmtree(forked_copy / "run")  # what lies behind the origin is not needed
    third = ("output_dir=third", "rounds=4", "--from", "second@3")
    again = align("train", "recipe.yaml", *third, cwd=forked_copy, stop=Stop("manifest"))
    assert again.code == -signal.SIGKILL, again.err
    assert rounds_of(forked_copy / "third", 0, 1, 2, 3) == rounds_of(three_rounds / "run")


@pytest.mark.long
def test_an_offline_run_is_forked_into_an_online_one_that_replays_what_there_is(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    offline, online = tmp_path / "offline", tmp_path / "online"
    small = {"train__steps_per_round": 1, **NO_EVALUATION}
    make_folder(offline, rounds=1, **{**OFFLINE_ONLY, **small})
    assert align("train", "recipe.yaml", cwd=offline).code == 0
    make_folder(online, rounds=3, train__replay_rounds=2, **small)
    done = align("train", "recipe.yaml", "--from", "../offline/run@1", cwd=online, collated=online / "collated.jsonl")
    assert done.code == 0, done.err
    assert rounds_of(online / "run", 0, 1) == rounds_of(offline / "run", 0, 1)
    assert train_starts(online / "run") == [
        f"{number} {stage}" for number in (2, 3) for stage in ("generate", "label", "train")
    ]
    manifest = json.loads((online / "run" / "rounds" / "003" / "manifest.json").read_text())
    assert sorted(manifest["stages"]["train"]["inputs"]["upstream"]) == [
        "rounds/002/checkpoint", "rounds/002/preferences.jsonl", "rounds/003/preferences.jsonl",
    ]  # fmt: skip
    status = json.loads(align("status", "run", "--json", cwd=online).out)
    assert status["finished"] == status["planned"]


def test_pairs_of_sources_that_the_new_recipe_has_not_are_not_replayed(finished_copy: Path, align: Align) -> None:
    changes = [
        "method.sources={dpp: {mixing: 1.0, gradient: 0.1}}", "method.kl={coefficient: 0.02}", "train.replay_rounds=1",
        "train.steps_per_round=1", "generate.prompts_per_round=8",
    ]  # fmt: skip
    collated = finished_copy / "pairs_used.jsonl"
    done = align(*INTO_FORK, "run@1", *changes, cwd=finished_copy, stop=Stop("manifest", 3), collated=collated)
    assert done.code == -signal.SIGKILL, done.err
    own = read_rows(finished_copy / "fork" / "rounds" / "002" / "preferences.jsonl")
    trained = [json.loads(line)[2] for line in collated.read_text().splitlines()]
    assert len(trained) == 8
    assert all(ids in [row["chosen_ids"] for row in own] for ids in trained)


REFUSALS: dict[str, tuple[list[str], str]] = {
    "no run there": (
        ["none@1"],
        "none: there is no such folder\n"
        "hint: give a recipe's output_dir; paths start at the folder that align runs in\n",
    ),
    "a round that is not finished": (
        ["run@3", "rounds=4"],
        "run: the run has not finished round 3\n"
        "hint: see `align status run` for how far it is; it can be forked from round 0 or 1 or 2\n",
    ),
    "too few rounds": (
        ["run@2"],
        "rounds: rounds is 2, and 2 are taken over from run@2: there is nothing left to do\n"
        "hint: set rounds to 3 or more\n",
    ),
    "into itself": (
        ["run@1", "output_dir=./run", "--restart"],
        "output_dir: a run cannot be forked into its own folder\nhint: choose another output_dir\n",
    ),
    "another evaluation": (
        ["run@1", "evaluate.num_prompts=8", "generate.max_new_tokens=12", "policy.sft.max_steps=3"],
        "run: the rounds of run@1 were made with other settings: policy.sft.max_steps was 12 and is now 3; "
        "generate.max_new_tokens was 16 and is now 12; evaluate.num_prompts was 16 and is now 8\n"
        "hint: a fork keeps the initial policy and how policies are measured: take these keys over, or begin anew\n",
    ),
    "another scorer": (
        ["run@1", "evaluate.scorer=ours", "method.sources.dpr.labeler=hidden"],
        "run: the rounds of run@1 were made with other settings: evaluate.scorer was 'hidden' and is now 'ours'\n"
        "hint: a fork keeps the initial policy and how policies are measured: take these keys over, or begin anew\n",
    ),
    "another seed, which other held-out prompts follow from": (
        ["run@1", "seed=5"],
        "run: the rounds of run@1 were made with other settings: seed was 0 and is now 5\n"
        "hint: a fork keeps the initial policy and how policies are measured: take these keys over, or begin anew\n",
    ),
    "malformed": (
        ["run"],
        "--from is 'run'; it must be a run and a round\nhint: as in --from runs/first@2\n",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_forked_is_refused_in_words_and_nothing_is_written(
    finished: Path, align: Align, name: str
) -> None:
    arguments, text = REFUSALS[name]
    files, times = files_below(finished), times_below(finished)
    refused = align(*INTO_FORK, *arguments, cwd=finished)
    assert_refused(refused)
    assert refused.err == text
    assert (files_below(finished), times_below(finished)) == (files, times)


@pytest.mark.parametrize("text", ["", "@1", "run@", "run@x", "run@-1", "run@1.0", "run@1 ", "run@²"])
def test_a_malformed_origin_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="it must be a run and a round"):
        parse_origin(text)


def test_an_origin_may_have_an_at_in_its_name() -> None:
    assert parse_origin("runs/a@b@12") == Origin(Path("runs/a@b"), 12)


def test_a_folder_with_another_run_is_refused(finished_copy: Path, align: Align) -> None:
    shutil.copytree(finished_copy / "run", finished_copy / "fork")
    files = files_below(finished_copy)
    refused = align(*INTO_FORK, "run@1", cwd=finished_copy)
    assert_refused(refused)
    assert refused.err == (
        "fork: this folder holds a run that was not forked from run@1\n"
        "hint: choose another output_dir, or leave --from out to go on with this run\n"
    )
    assert files_below(finished_copy) == files
    restarted = align(*INTO_FORK, "run@1", "--restart", cwd=finished_copy, stop=Stop("manifest"))
    assert restarted.code == -signal.SIGKILL
    assert json.loads((finished_copy / "fork" / "lineage.json").read_text()) == {"run": "run", "round": 1}


def test_a_checkpoint_that_was_let_go_is_named(finished_copy: Path, align: Align) -> None:
    RunFolder(finished_copy / "run").manifests.drop(Artifact(1, CHECKPOINT))
    refused = align(*INTO_FORK, "run@1", cwd=finished_copy)
    assert_refused(refused)
    assert refused.err == (
        "run/rounds/001/checkpoint: the checkpoint of round 1 was let go, as checkpoints.keep says\n"
        "hint: take a round that is kept, or run again with a higher checkpoints.keep\n"
    )
    assert not (finished_copy / "fork").exists()
    later = align(*INTO_FORK, "run@2", "rounds=3", cwd=finished_copy, stop=Stop("manifest"))
    assert later.code == -signal.SIGKILL
    manifest = (finished_copy / "fork" / "rounds" / "001" / "manifest.json").read_bytes()
    assert manifest == (finished_copy / "run" / "rounds" / "001" / "manifest.json").read_bytes()


def test_a_damaged_origin_is_named_and_leaves_no_fork_behind(finished_copy: Path, align: Align) -> None:
    place = finished_copy / "run" / "rounds" / "001" / "completions.jsonl"
    place.write_bytes(place.read_bytes()[:-1])
    refused = align(*INTO_FORK, "run@1", cwd=finished_copy)
    assert_refused(refused)
    assert "run/rounds/001/completions.jsonl: the artifact is not what was written" in refused.err
    assert [path.name for path in (finished_copy / "fork").iterdir()] == [".lock"]


def test_a_labeler_that_reads_differently_now_is_another_measure(finished_copy: Path, align: Align) -> None:
    with (finished_copy / "eval_pairs.jsonl").open("a") as stream:
        stream.write('{"prompt": "one", "chosen": "more", "rejected": "pair"}\n')
    refused = align(*INTO_FORK, "run@1", cwd=finished_copy)
    assert_refused(refused)
    assert "made with other settings: the contents of data.eval_preferences have changed\n" in refused.err


@pytest.mark.long
def test_a_fork_into_a_read_only_origins_neighbour_can_be_removed_again(finished_copy: Path, align: Align) -> None:
    run = finished_copy / "run"
    for path in run.rglob("*"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    run.chmod(0o500)
    begun = align(*INTO_FORK, "run@1", cwd=finished_copy, stop=Stop("manifest"))
    assert begun.code == -signal.SIGKILL, begun.err
    assert {path.stat().st_mode & 0o777 for path in run.rglob("*") if path.is_file()} == {0o400}
    folders = [path for path in (finished_copy / "fork").rglob("*") if path.is_dir()]
    assert all(path.stat().st_mode & 0o700 == 0o700 for path in folders)
    for path in [run, *run.rglob("*")]:
        if path.is_dir():
            path.chmod(0o700)
