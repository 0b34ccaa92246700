"""A run that is killed, whenever it is, and taken up again ends in the bytes of one that was not.

The kills are real: another process, SIGKILL, at a chosen moment.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from forked import Stop
from run_fixtures import NO_EVALUATION, SPIN_LIKE, XPO_LIKE, Align, MakeFolder, assert_same_runs, read_rows
from sweeps import swept

STEPS = [
    "round 0 sft",
    "round 0 evaluate",
    *(f"round {number} {stage}" for number in (1, 2) for stage in ("generate", "label", "train", "evaluate")),
]
BOTH = ("manifest", "ledger")
"""Before and after the manifest takes a step in."""
VARIANTS: dict[str, dict[str, Any]] = {
    "the reference is the previous policy": {"policy__reference": "previous"},
    "the schedule is a round's own": {"train__schedule": "round"},
    "the optimizer begins anew": {"train__reset_optimizer_each_round": True},
    "the loss is ipo": {"method__loss_type": "ipo", "method__beta": 0.5},
    "the loss is slic": {"method__loss_type": "slic"},
    "earlier rounds are replayed": {"train__replay_rounds": 1},
    "the policy labels its own responses": {
        "method__sources": {"offline": {"mixing": 0.5}, "dpp": {"mixing": 0.5, "gradient": 0.2}},
        "method__kl": {"coefficient": 0.02, "target": 0.1},
    },
    "a demonstration is chosen over the policy's response": {**SPIN_LIKE, "train__replay_rounds": 1},
    "the reference's responses are among the pairs": {**XPO_LIKE, "train__replay_rounds": 1},
}
SOME = ["the policy labels its own responses", "the reference's responses are among the pairs"]
"""Those that are killed everywhere in `make test-all`: a KL weight that moves, samples of two policies, replay."""
PAIRED_VARIANTS = {
    "previous reference, ipo": ["the reference is the previous policy", "the loss is ipo"],
    "own schedule, new optimizer, slic": [
        "the schedule is a round's own", "the optimizer begins anew", "the loss is slic",
    ],
    "replay, self-labels": ["earlier rounds are replayed", "the policy labels its own responses"],
}  # fmt: skip


def kill_everywhere(folder: Path, align: Align, moments: Mapping[str, Sequence[str]]) -> None:
    """Kill the run at each step's moments, one after the other; each time it says where it goes on."""
    steps, num_done = list(moments), 0
    for number, step in enumerate(steps):
        for moment in moments[step]:
            last, following = steps[num_done - 1], steps[num_done]
            goes_on = f"going on after {last}, with {following}" if num_done else f"begins with {following}"
            killed = align("train", "recipe.yaml", cwd=folder, stop=Stop(moment, within=step))
            assert killed.code == -signal.SIGKILL, killed.err
            assert killed.out == ""
            assert f"run: {goes_on}" in killed.err.splitlines()
            num_done = number + (moment == "ledger")
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert "run is finished: 2 rounds; raise rounds= to go on" in done.err.splitlines()


@pytest.mark.long
def test_a_run_killed_before_and_after_every_manifest_says_where_it_goes_on_and_ends_in_the_same_bytes(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    kill_everywhere(folder, align, dict.fromkeys(STEPS, BOTH))
    assert_same_runs(folder, finished)
    events = read_rows(folder / "run" / "ledger.jsonl")
    starts = [f"round {event['round']} {event['stage']}" for event in events if event["event"] == "start"]
    assert starts == [step for step in STEPS for _ in range(2)]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(names, id=title, marks=[] if "replay" in title else pytest.mark.long)
        for title, names in PAIRED_VARIANTS.items()
    ],
)
def test_a_run_killed_between_rounds_and_in_the_middle_of_training_ends_in_the_same_bytes(
    names: list[str], make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    changes = {key: value for name in names for key, value in VARIANTS[name].items()} | NO_EVALUATION
    whole, killed = make_folder(tmp_path / "whole", **changes), make_folder(tmp_path / "killed", **changes)
    assert align("train", "recipe.yaml", cwd=whole).code == 0
    for stop in (Stop("step", 2), Stop("ledger"), Stop("step", 2)):  # in training, after round 1, in training
        assert align("train", "recipe.yaml", cwd=killed, stop=stop).code == -signal.SIGKILL
    done = align("train", "recipe.yaml", cwd=killed)
    assert done.code == 0, done.err
    assert_same_runs(killed, whole)


@pytest.mark.long
@pytest.mark.parametrize("variant", swept(VARIANTS, *SOME))
def test_every_variant_killed_before_and_after_every_manifest_ends_in_the_same_bytes(
    variant: str, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    """Before those of the first round's stages, and after those of the second's."""
    changes = VARIANTS[variant]
    moments = {step: ["manifest" if step.startswith("round 1") else "ledger"] for step in STEPS}
    whole, killed = make_folder(tmp_path / "whole", **changes), make_folder(tmp_path / "killed", **changes)
    assert align("train", "recipe.yaml", cwd=whole).code == 0
    kill_everywhere(killed, align, moments)
    assert_same_runs(killed, whole)


def test_a_run_killed_while_it_writes_its_first_file_can_be_run_again(
    make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    assert align("train", "recipe.yaml", cwd=folder, stop=Stop("rename", 1)).code == -signal.SIGKILL
    again = align("train", "recipe.yaml", cwd=folder, stop=Stop("rename", 2))
    assert again.code == -signal.SIGKILL, again.err


@pytest.mark.sweep  # which `test_crashes` does in a run of one round, with all that a stage may write
def test_a_run_killed_before_any_rename_ends_in_the_same_bytes(
    make_folder: MakeFolder, align: Align, finished: Path, tmp_path: Path
) -> None:
    """In each step before its first, then its second, and so on until one has come through to the next step."""
    folder = make_folder(tmp_path)
    num_kills, done, nth = 0, 0, 2  # the first, of run.json, has a test of its own
    while (killed := align("train", "recipe.yaml", cwd=folder, stop=Stop("rename", nth))).code != 0:
        assert killed.code == -signal.SIGKILL, f"killed before rename {nth} after {done} steps: {killed.err}"
        num_kills += 1
        before, done = done, num_finished(folder)
        nth = nth + 1 if done == before else 1
        assert nth < 20, "it goes on"
    assert num_kills >= 3 * len(STEPS)  # every stage renames an artifact and the manifest at least
    assert_same_runs(folder, finished)


def num_finished(folder: Path) -> int:
    ledger = folder / "run" / "ledger.jsonl"
    return sum(event["event"] == "finish" for event in read_rows(ledger)) if ledger.exists() else 0
