"""Guards: what a round's figures say of training gone wrong, and what is done about it.

The first half has figures made by hand; in the second half small runs are made to go wrong.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_runs import killed_at_step, train
from run_fixtures import Align, MakeFolder, files_below, read_rows
from safetensors.torch import load_file

from align_cli.artifacts.records import Evaluation
from align_cli.errors import DivergedError, GuardError
from align_cli.models.load import weights_version
from align_cli.recipe import load_recipe
from align_cli.recipe.sections.guards import GuardsSection
from align_cli.recipe.sections.method import MethodSection
from align_cli.run.folder import RunFolder
from align_cli.run.guards import Finding, RoundFigures, decided, findings
from align_cli.run.results import Results
from align_cli.training.resumable import _BeginAndEnd
from align_cli.training.zero_margin import LN_2

pytestmark = pytest.mark.usefixtures("no_garbage_in_libraries")
OFF = {name: None for name in GuardsSection.model_fields if name != "non_finite"}


def evaluation(
    number: int = 0,
    *,
    win: float | None = None,
    reward: float | None = None,
    kl: float = 0.0,
    length: float = 10.0,
    eos: float = 0.8,
) -> Evaluation:
    """A round's evaluation with these figures."""
    interval = {"low": 0.0, "high": 1.0, "wins": 1, "ties": 0, "losses": 1, "policy": "abc"}
    return Evaluation(
        round=number,
        policy="abc",
        num_prompts=16,
        scorer=None if reward is None else "hidden",
        reward=None if reward is None else {"mean": reward, "standard_error": 0.1},
        against={} if win is None else {"initial": {"win_rate": win, **interval}},
        kl={"mean": kl, "standard_error": 0.1, "reference": "abc"},
        length={"mean": length, "standard_error": 0.1},
        eos_rate=eos,
        distinct_2=0.5,
        preferences=None,
        sampling={"temperature": 1.0},
    )


def found(
    evaluations: list[Evaluation],
    steps: list[dict[str, float]] | None = None,
    rewards: Mapping[int, float] | None = None,
    loss: Mapping[str, Any] | None = None,
    **guards: Any,
) -> list[Finding]:
    """What the guards say; all but those that are named are off."""
    section = GuardsSection.model_validate({**OFF, **guards})
    return findings(section, RoundFigures(evaluations, steps or [], rewards or {}), method(**loss or {}))


def method(**options: Any) -> MethodSection:
    return MethodSection.model_validate({"sources": {"offline": {"mixing": 1.0}}, **options})


def wins(*rates: float) -> list[Evaluation]:
    return [evaluation(0), *(evaluation(number, win=rate) for number, rate in enumerate(rates, start=1))]


def rewarded(*means: float) -> list[Evaluation]:
    return [evaluation(number, reward=mean) for number, mean in enumerate(means)]


KL = {"kl": {"above": 2.0}}
LENGTH = {"length": {"shrunk_to": 0.5, "grown_to": 2.0}}
EOS = {"eos_rate": {"fallen_to": 0.5}}
WINS = {"win_rate": {"rounds": 2}}
GAP = {"reward_gap": {"rounds": 2}}
STUCK = {"stuck_loss": {"steps": 3, "within": 0.01}}


def at(value: float, scale: float = 1.0, name: str = "dpr/loss") -> list[dict[str, float]]:
    """Steps whose loss is just within the distance from a value."""
    return [{name: value + scale * distance} for distance in (0.0099, -0.0099, 0.0)]


AT_LN_2 = at(LN_2)

FIRING: dict[str, tuple[list[Finding], list[str]]] = {
    "kl": (
        found([evaluation(), evaluation(1, kl=2.001)], **KL),
        ["KL to the reference is 2 nats, above 2:", "Likely: a learning rate too high"],
    ),
    "length, shrinking": (
        found([evaluation(), evaluation(1, length=4.99)], **LENGTH),
        ["responses have 4.99 tokens on average, the initial policy's had 10: they collapse", "coefficient too high"],
    ),
    "length, growing": (
        found([evaluation(), evaluation(1, length=20.1)], **LENGTH),
        ["responses have 20.1 tokens on average, the initial policy's had 10: they explode", "likes long texts"],
    ),
    "eos_rate": (
        found([evaluation(), evaluation(1, eos=0.39)], **EOS),
        ["39% of the responses end by themselves, of the initial policy's 80% did", "max_new_tokens too low"],
    ),
    "win_rate": (
        found(wins(0.9, 0.5, 0.75, 0.625, 0.5), **WINS),
        ["has fallen for 2 rounds in a row: 0.75 (round 3), 0.625 (round 4), 0.5 (round 5)", "being gamed"],
    ),
    "reward_gap": (
        found(rewarded(0, 3, 2, 1), rewards={1: 0.1, 2: 0.2, 3: 0.3}, **GAP),
        [
            "for 2 rounds in a row the training labeler's reward rose (0.1 (round 1), 0.2 (round 2), 0.3 (round 3)) "
            "while the evaluation scorer's fell (3 (round 1), 2 (round 2), 1 (round 3))",
            "the policy games the training labeler",
        ],
    ),
    "stuck_loss": (
        found([], [{"dpr/loss": 0.3}, *AT_LN_2], **STUCK),
        ["the loss on dpr stayed within 0.01 of ln 2 for 3 steps", "a wrong chat template"],
    ),
    "stuck_loss, of TRL": (
        found([], at(LN_2, name="loss"), loss={"loss_type": "robust", "label_smoothing": 0.1}, **STUCK),
        ["the loss stayed within 0.01 of ln 2 for 3 steps: the policy learns nothing from these pairs"],
    ),
    "stuck_loss, of TRL's options": (
        found([], at(LN_2, name="loss"), loss={"f_divergence_type": "forward_kl"}, **STUCK),
        ["the loss stayed within 0.01 of ln 2 for 3 steps"],
    ),
    "stuck_loss, of a list": (
        found([], at(LN_2, name="loss"), loss={"loss_type": ["dpo", "aot"], "loss_weights": [0.5, 0.5]}, **STUCK),
        ["the loss stayed within 0.01 of ln 2 for 3 steps"],
    ),
    "stuck_loss, of a list that is elsewhere": (
        found([], at(LN_2 + 1, LN_2 + 1, name="loss"), loss={"loss_type": ["dpo", "hinge"]}, **STUCK),
        ["the loss stayed within 1.000% of 1.693, its value at a margin of 0, for 3 steps"],
    ),
    "stuck_loss, of IPO": (
        found([], at(25.0, 25.0), loss={"loss_type": "ipo", "beta": 0.1}, **STUCK),
        ["the loss on dpr stayed within 1.000% of 25, its value at a margin of 0, for 3 steps"],
    ),
    "stuck_loss, of SLiC": (
        found([], at(1.0), loss={"loss_type": "hinge"}, **STUCK),
        ["the loss on dpr stayed within 1.000% of 1, its value at a margin of 0, for 3 steps"],
    ),
    "stuck_loss, of SimPO": (
        found([], at(0.9741, 0.97), loss={"loss_type": "simpo", "simpo_gamma": 0.5}, **STUCK),
        ["the loss on dpr stayed within 1.000% of 0.9741, its value at a margin of 0, for 3 steps"],
    ),
}


@pytest.mark.parametrize(
    ("longer_won", "side"),
    [((0.95, 60), "longer"), ((0.05, 60), "shorter"), ((0.95, 49), None), ((0.89, 60), None), (None, None)],
)
def test_labels_that_follow_length_are_told(longer_won: tuple[float, int] | None, side: str | None) -> None:
    found = findings(GuardsSection(), RoundFigures([], [], {}, longer_won), method())
    assert [finding.guard for finding in found] == ["labels"] * (side is not None)
    assert all(finding.message.startswith(f"the {side} response won 95% of 60 pairs") for finding in found)


@pytest.mark.parametrize(
    ("first", "now", "is_told"),
    [
        ((0.5, 60), (0.81, 60), True),
        ((0.8, 60), (0.4, 60), True),
        ((0.5, 60), (0.79, 60), False),
        ((0.2, 49), (0.8, 60), False),
        ((0.2, 60), (0.8, 49), False),
        (None, (0.8, 60), False),
        ((0.2, 60), None, False),
    ],
)
def test_labels_that_drift_are_told(
    first: tuple[float, int] | None, now: tuple[float, int] | None, is_told: bool
) -> None:
    found = findings(GuardsSection(), RoundFigures([], [], {}, now, first), method())
    assert [finding.guard for finding in found] == ["labels"] * is_told
    if now and first:
        assert all(f"won {now[0]:.0%} of 60 pairs, {first[0]:.0%} of 60 in round 1" in one.message for one in found)


@pytest.mark.parametrize("name", FIRING)
def test_a_guard_fires_beyond_its_bound_with_figures_and_likely_causes(name: str) -> None:
    fired, words = FIRING[name]
    (finding,) = fired
    assert (finding.guard, finding.action) == (name.split(",")[0], "warn")
    assert [part for part in words if part not in finding.message] == []
    assert finding.to_dict() == {"guard": finding.guard, "action": "warn", "message": finding.message}


SILENT = {
    "KL at the bound": found([evaluation(), evaluation(1, kl=2.0)], **KL),
    "half the length": found([evaluation(), evaluation(1, length=5.0)], **LENGTH),
    "twice the length": found([evaluation(), evaluation(1, length=20.0)], **LENGTH),
    "the initial policy alone": found([evaluation(length=0.1, eos=0.0)], **LENGTH, **EOS, **WINS, **GAP),
    "responses that were empty before": found([evaluation(length=0), evaluation(1, length=0)], **LENGTH),
    "half of the EOS rate": found([evaluation(), evaluation(1, eos=0.4)], **EOS),
    "no response ended before": found([evaluation(eos=0), evaluation(1, eos=0)], **EOS),
    "a win rate that stays": found(wins(0.9, 0.8, 0.8), **WINS),
    "a win rate that fell once": found(wins(0.7, 0.9, 0.8), **WINS),
    "too few rounds": found(wins(0.9, 0.8), **WINS),
    "no win rates": found([evaluation(number) for number in range(5)], **WINS),
    "both rewards rise": found(rewarded(0, 1, 2, 3), rewards={1: 0.1, 2: 0.2, 3: 0.3}, **GAP),
    "both rewards fall": found(rewarded(0, 3, 2, 1), rewards={1: 0.3, 2: 0.2, 3: 0.1}, **GAP),
    "a training reward that stays": found(rewarded(0, 3, 2, 1), rewards={1: 0.1, 2: 0.1, 3: 0.2}, **GAP),
    "no training rewards": found(rewarded(0, 3, 2, 1), **GAP),
    "a loss at the distance": found([], [*AT_LN_2, {"dpr/loss": LN_2 + 0.0101}], **STUCK),
    "too few steps": found([], AT_LN_2[:2], **STUCK),
    "another loss": found([], AT_LN_2, loss={"loss_type": "ipo"}, **STUCK),
    "IPO at the distance": found([], [*at(25.0)[:2], {"dpr/loss": 25.26}], loss={"loss_type": "ipo"}, **STUCK),
    "TRL's loss at the distance": found([], at(LN_2 + 0.001, name="loss"), loss={"loss_type": "robust"}, **STUCK),
    "a loss that depends on the policy": found(
        [], at(LN_2, name="loss"), loss={"loss_type": ["dpo", "sft"], "loss_weights": [1.0, 0.0]}, **STUCK
    ),
    "weights": found([], at(LN_2, name="loss"), loss={"use_weighting": True}, **STUCK),
    "the whole loss where sources have theirs": found([], [{"dpp/loss": 0.3, "loss": LN_2}] * 3, **STUCK),
    "the policy's own labels, whose loss says nothing": found([], [{"dpp/loss": LN_2}] * 3, **STUCK),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_guard_is_silent_up_to_its_bound(name: str) -> None:
    assert SILENT[name] == []


def test_null_switches_a_guard_off_and_without_a_word_all_are_on() -> None:
    wrong = [
        evaluation(reward=9),
        *(evaluation(n, win=1 - n / 9, reward=-n, kl=99, length=1, eos=0) for n in (1, 2, 3)),
    ]
    steps, rewards = [{"offline/loss": LN_2}] * 50, {1: 1.0, 2: 2.0, 3: 3.0}
    everything = findings(GuardsSection(), RoundFigures(wrong, steps, rewards), method())
    assert [finding.guard for finding in everything] == [
        *("kl", "length", "eos_rate"),
        *("win_rate", "reward_gap"),
        "stuck_loss",
    ]
    assert {finding.action for finding in everything} == {"warn"}
    for name in OFF:
        section = GuardsSection.model_validate({name: None})
        heard = [finding.guard for finding in findings(section, RoundFigures(wrong, steps, rewards), method())]
        assert heard == [finding.guard for finding in everything if finding.guard != name]


def test_stopping_comes_before_rolling_back_and_that_before_a_word() -> None:
    warn, roll_back, stop = (Finding("kl", action, "") for action in ("warn", "rollback", "stop"))
    assert [decided(found) for found in ([], [warn], [warn, roll_back], [roll_back, stop, warn])] == [
        None, None, "rollback", "stop",
    ]  # fmt: skip


LONGER_IS_BETTER = "def score(prompts, completions):\n    return [float(len(text)) for text in completions]\n"
SMALL: dict[str, Any] = {
    "rounds": 3,
    "policy": {"model_name_or_path": "./model", "reference": "previous"},
    "method__sources": {"dpr": {"mixing": 1.0, "labeler": "ours"}},
    "data__preferences": None,
    "data__eval_preferences": None,
    "generate__max_new_tokens": 8,
    "train": {"learning_rate": 1e-3, "per_device_train_batch_size": 8, "steps_per_round": 3},
    "evaluate__num_prompts": 16,
    "evaluate__scorer": "longer",
    "checkpoints": {"every_steps": 1, "keep": 1, "optimizer": "all"},
    "labelers__longer": {"kind": "function", "function": "longer.py:score"},
    "labelers__ours": {"kind": "function", "function": "longer.py:score"},
}


@pytest.fixture(scope="module")
def made(make_folder: MakeFolder, warm_policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and a model that ends its responses now and then. Shared."""
    folder = make_folder(tmp_path_factory.mktemp("guards"), **SMALL)
    (folder / "longer.py").write_text(LONGER_IS_BETTER, encoding="utf-8")
    warm_policy.model.save_pretrained(folder / "model")
    warm_policy.tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def watched(made: Path) -> tuple[Path, list[str]]:
    """The folder with the run `run`, whose guard of KL warns in every round; and what it said. Shared."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(made)
        return made, train(f"guards={KL_ALONE}")


KL_ALONE = "{kl: {above: 1.0e-9}, length: null, eos_rate: null, win_rate: null, reward_gap: null, stuck_loss: null}"
STOPPING = KL_ALONE.replace("1.0e-9", "1.0e-9, action: stop")
NO_GUARDS = KL_ALONE.replace("{above: 1.0e-9}", "null")
STEPS = 3
STUCK_ALONE = (
    f"{{kl: null, length: null, eos_rate: null, win_rate: null, reward_gap: null, stuck_loss: {{steps: {STEPS}}}}}"
)


@pytest.fixture
def folder(watched: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, to work in."""
    copy = Path(shutil.copytree(watched[0], tmp_path / "copy"))
    monkeypatch.chdir(copy)
    return copy


def test_means_of_standardised_sums_are_not_compared_between_rounds(folder: Path) -> None:
    """Each round's are brought to a mean of 0: they would rise and fall by chance."""

    def compared(*overrides: str) -> list[int]:
        recipe = load_recipe("recipe.yaml", ["output_dir=run", *overrides])
        return list(Results(recipe, RunFolder("run")).rewarded_rounds([0, 1, 2, 3]))

    both = "labelers.both={kind: combination, of: {ours: 1, longer: 1}}"
    assert compared() == compared(both, "labelers.both.standardize=false", "evaluate.scorer=both") == [1, 2, 3]
    for key in ("evaluate.scorer=both", "method.sources.dpr.labeler=both"):
        assert compared(both, key) == []


def place(run: str, number: int, name: str) -> Path:
    return Path(run, "rounds", f"{number:03d}", name)


def read(run: str, number: int, name: str) -> Any:
    return json.loads(place(run, number, name).read_text(encoding="utf-8"))


def test_a_warning_is_said_and_noted_and_the_run_goes_on(watched: tuple[Path, list[str]]) -> None:
    folder, said = watched
    warned = [line for line in said if line.startswith("guard")]
    assert [line.split(":")[0] for line in warned] == [f"guard kl, round {number}" for number in (1, 2, 3)]
    for number in (1, 2, 3):
        stages = json.loads((folder / place("run", number, "manifest.json")).read_text())["stages"]
        (finding,) = stages["evaluate"]["guards"]
        assert (finding["guard"], finding["action"]) == ("kl", "warn")
        assert warned[number - 1].endswith(finding["message"])
        assert not any("continues_from" in stage for stage in stages.values())


def test_a_run_that_a_guard_stopped_stays_stopped_until_the_guard_only_warns(folder: Path, align: Align) -> None:
    with pytest.raises(GuardError) as caught:
        train(f"guards={STOPPING}", "output_dir=stopped")
    (fault,) = caught.value.faults
    kl = read("stopped", 1, "evaluation.json")["kl"]["mean"]
    assert fault.where == "guards.kl"
    assert fault.what.startswith(f"stopped before round 2 generate: KL to the reference is {kl:.3g} nats, above 1e-09:")
    assert fault.hint == (
        "set guards.kl.action to warn to go on all the same, or fork another run from an earlier round (--from)"
    )
    files = {name: content for name, content in files_below(Path("stopped")).items() if name != ".lock"}
    again = align("train", "recipe.yaml", f"guards={STOPPING}", "output_dir=stopped", cwd=folder)
    assert (again.code, again.out) == (3, "")
    assert again.err.endswith(f"{fault}\n")
    assert {name: content for name, content in files_below(Path("stopped")).items() if name != ".lock"} == files
    train(f"guards={KL_ALONE}", "output_dir=stopped", "rounds=2")
    assert place("stopped", 1, "samples.jsonl").read_bytes() == place("run", 1, "samples.jsonl").read_bytes()
    assert len(read_rows(place("stopped", 2, "training.jsonl"))) == STEPS


def test_a_run_that_is_finished_anyway_is_not_stopped(folder: Path) -> None:
    said = train(f"guards={STOPPING}", "output_dir=stopped", "rounds=1")
    assert said[-1].startswith("guard kl, round 1: ")
    with pytest.raises(GuardError, match="stopped before round 4 generate"):
        train(f"guards={STOPPING}", "rounds=4")  # what was seen before stops it, whatever was to be done then


def test_a_loss_of_trls_that_stays_where_it_began_is_noticed(folder: Path) -> None:
    losses = ["method.loss_type=robust", "method.label_smoothing=0.1", "output_dir=robust", "rounds=1"]
    said = train(*losses, f"guards={STUCK_ALONE}", "train.learning_rate=1e-12")
    (finding,) = read("robust", 1, "manifest.json")["stages"]["evaluate"]["guards"]
    assert finding["message"].startswith(f"the loss stayed within 0.001 of ln 2 for {STEPS} steps: the policy learns")
    assert said[-1] == f"guard stuck_loss, round 1: {finding['message']}"


@pytest.fixture
def rolls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards that want the second round undone, and nothing else."""

    def say(_: Any, figures: RoundFigures, *__: Any) -> list[Finding]:
        return [Finding("kl", "rollback", "as asked")] if figures.evaluations[-1].round == 2 else []

    monkeypatch.setattr("align_cli.run.step.findings", say)


def weights(run: str, number: int) -> dict[str, torch.Tensor]:
    return load_file(place(run, number, "checkpoint") / "model.safetensors")


def num_optimizer_steps(run: str, number: int) -> set[float]:
    state = load_file(place(run, number, "checkpoint") / "optimizer.safetensors")
    return {float(value) for name, value in state.items() if name.endswith(".step")}


def _interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.long
def test_a_round_that_is_rolled_back_is_followed_by_one_from_the_best_policy(
    folder: Path, rolls_back: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = train("output_dir=rolled")
    assert said[-2:] == [
        "guard kl, round 2: as asked",
        "round 2: rolled back; what comes next goes on from the policy of round 1",
    ]
    assert read("rolled", 1, "evaluation.json")["against"]["initial"]["win_rate"] > 0.5
    entry = read("rolled", 2, "manifest.json")["stages"]["evaluate"]
    assert (entry["continues_from"], entry["guards"][0]["action"]) == (1, "rollback")
    best = read("rolled", 1, "evaluation.json")["policy"]
    last = read("rolled", 3, "evaluation.json")
    assert last["against"]["previous"]["policy"] == last["kl"]["reference"] == best
    assert {row["policy"] for row in read_rows(place("rolled", 3, "completions.jsonl"))} == {best}
    state = read("rolled", 3, "checkpoint/training_state.json")
    assert (state["parent"], state["global_step"]) == (best, 3 * STEPS)
    assert num_optimizer_steps("rolled", 3) == {2.0 * STEPS}  # those of round 2 are undone
    inputs = read("rolled", 3, "manifest.json")["stages"]
    assert "rounds/001/checkpoint" in inputs["train"]["inputs"]["upstream"]
    rates = [read("rolled", number, "evaluation.json")["against"]["initial"]["win_rate"] for number in (1, 3)]
    is_best = rates[0] >= rates[1]
    assert place("rolled", 1, "checkpoint").is_dir() is is_best  # whatever checkpoints.keep says

    with killed_at_step(monkeypatch, 2 * STEPS):  # at the end of round 2
        train("output_dir=killed")
    with killed_at_step(monkeypatch, 3):  # after the roll-back, in the midst of round 3
        train("output_dir=killed")
    assert (read("killed", 2, "manifest.json")["stages"]["evaluate"]["continues_from"]) == 1
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):  # when round 3 is trained
        patched.setattr("align_cli.stages.evaluate.evaluate_policy", _interrupted)
        train("output_dir=killed")
    assert weights_version(place("killed", 1, "checkpoint")) == best  # whatever checkpoints.keep says
    train("output_dir=killed")
    assert files_below(Path("killed/rounds")) == files_below(Path("rolled/rounds"))


@pytest.mark.long
def test_rounds_that_were_rolled_back_are_no_part_of_what_guards_look_at_later(
    folder: Path, rolls_back: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("output_dir=rolled", "train.steps_per_round=1")
    seen: list[list[int]] = []

    def look(_: Any, figures: RoundFigures, *__: Any) -> list[Finding]:
        seen.append([evaluation.round for evaluation in figures.evaluations])
        assert sorted(figures.training_rewards) == [1, 3, 4]
        return []

    monkeypatch.setattr("align_cli.run.step.findings", look)
    train("output_dir=rolled", "train.steps_per_round=1", "rounds=4", "policy.reference=previous")
    assert seen == [[0, 1, 3, 4]]
    kept = {path.parent.name for path in Path("rolled/rounds").glob("*/checkpoint")}
    assert {"001", "004"} - kept == set() or read("rolled", 3, "evaluation.json")["against"]["initial"]["win_rate"] > (
        read("rolled", 1, "evaluation.json")["against"]["initial"]["win_rate"]
    )
    assert "002" not in kept


def test_a_loss_that_is_no_number_stops_the_run_and_nothing_of_the_round_is_kept(folder: Path) -> None:
    changes = ("output_dir=diverged", "train.learning_rate=1e30", "train.max_grad_norm=0.0")
    for _ in range(2):
        with pytest.raises(DivergedError) as caught:
            train(*changes)
        (fault,) = caught.value.faults
        assert fault.what.startswith("training diverged")
        assert "guards.non_finite can roll back by itself" in fault.hint
        assert "train" not in read("diverged", 1, "manifest.json")["stages"]
    said = train(*changes, "guards.non_finite.action=rollback", "rounds=2")
    given_up = [line for line in said if "non_finite" in line]
    assert [line.split(":")[0] for line in given_up] == ["guard non_finite, round 1", "guard non_finite, round 2"]
    assert all(line.endswith("; the round ends with the policy of round 0") for line in given_up)
    assert place("diverged", 2, "samples.jsonl").read_bytes() == place("diverged", 0, "samples.jsonl").read_bytes()


def poison(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Let what the `nth` optimizer step of this process makes of a weight of every token be no number."""
    on_step_end, calls = _BeginAndEnd.on_step_end, 0

    def poisoning(callback: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            next(callback.trainer.model.parameters()).data[:, 0] = math.nan
        on_step_end(callback, *args, **kwargs)

    monkeypatch.setattr(_BeginAndEnd, "on_step_end", poisoning)


GIVING_UP = (f"guards={NO_GUARDS}", "guards.non_finite.action=rollback")


@pytest.mark.long
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(2, marks=pytest.mark.long, id="which the next loss shows"),
        pytest.param(3, id="which no loss shows"),
    ],
)
def test_a_round_that_diverged_is_given_up_for_the_best_rounds_policy_and_optimizer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, align: Align, step: int
) -> None:
    with killed_at_step(monkeypatch, STEPS + 1):
        train("output_dir=killed", *GIVING_UP)
    best = weights("killed", 1)  # of `whole` it may be let go when round 3 turns out to be better
    version = weights_version(place("killed", 1, "checkpoint"))

    with monkeypatch.context() as patched:
        poison(patched, STEPS + step)
        said = train("output_dir=whole", *GIVING_UP)
    (given_up,) = [line for line in said if "non_finite" in line]
    what = "training diverged at step 6: loss nan" if step == 2 else "training diverged: the last step's weights"
    assert given_up.startswith(f"guard non_finite, round 2: {what}")
    assert given_up.endswith("; the round ends with the policy of round 1")
    assert read("whole", 2, "manifest.json")["stages"]["train"]["continues_from"] == 1
    assert read("whole", 2, "evaluation.json")["policy"] == version
    assert all(torch.equal(tensor, best[name]) for name, tensor in weights("whole", 2).items())
    assert place("whole", 2, "samples.jsonl").read_bytes() == place("whole", 1, "samples.jsonl").read_bytes()
    assert len(read_rows(place("whole", 2, "training.jsonl"))) == (2 if step == 2 else 3)
    assert num_optimizer_steps("whole", 3) == {2.0 * STEPS}
    shown = align("status", "whole", cwd=folder)
    assert shown.code == 0, shown.err
    assert "diverged; its policy is that of round 1" in shown.out

    with monkeypatch.context() as patched:
        poison(patched, step)
        with killed_at_step(patched, 2 * STEPS - (step == 2)):  # round 2 is given up; in round 3
            train("output_dir=killed", *GIVING_UP)
    train("output_dir=killed", *GIVING_UP)
    assert files_below(Path("killed/rounds")) == files_below(Path("whole/rounds"))


@pytest.mark.parametrize("name", GuardsSection.model_fields)
@pytest.mark.parametrize("missing", ["evaluate.scorer=null", "evaluate.against=[previous]"])
def test_rolling_back_is_refused_where_nothing_says_which_round_is_the_best(
    tiny_recipe: Any, tmp_path: Path, name: str, missing: str
) -> None:
    rollback = f"guards.{name}={{action: rollback}}"
    tiny_recipe(tmp_path, rollback)
    with pytest.raises(Exception) as caught:
        tiny_recipe(tmp_path, rollback, missing)
    assert str(caught.value).endswith(
        f": guards.{name}.action is rollback, but no win rate against the initial policy says which round is the best\n"
        "hint: set evaluate.scorer and evaluate.against: [initial], or another action"
    )


@pytest.mark.parametrize("action", ["warn", "null"])
def test_training_that_is_no_number_any_more_cannot_be_passed_over(
    tiny_recipe: Any, tmp_path: Path, action: str
) -> None:
    with pytest.raises(Exception, match=r"guards\.non_finite"):
        tiny_recipe(tmp_path, f"guards.non_finite={'null' if action == 'null' else '{action: warn}'}")
