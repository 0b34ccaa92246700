"""The train stage at work: a tiny model, the real trainer, checkpoints; killed, out of memory, diverged."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from at_work import AtWork, Folders, Held
from chat_models import make_chat_model
from transformers import LlamaForCausalLM

from align_cli.artifacts.records import Preference
from align_cli.errors import AlignError, DataError, DivergedError, OutOfMemoryError, RunError
from align_cli.models.load import Policy, load_policy
from align_cli.recipe import Recipe
from align_cli.run.folder.begun import MicroBatch
from align_cli.run.folder.work import WorkInProgress
from align_cli.stages.base import CHECKPOINT, PREFERENCES, REFERENCE_LOGPS, TRAINING, Artifact
from align_cli.stages.inputs import Inputs
from align_cli.stages.pools import training_pools
from align_cli.stages.train import Train
from align_cli.stages.train_round import pair_rounds
from align_cli.training.checkpoints import OPTIMIZER_NAME, TrainingState, read_training_state, save_checkpoint

REWARDED = "method.sources={dpr: {mixing: 1, labeler: hidden}}"
SHORT = (
    REWARDED,
    "rounds=2",
    "train={learning_rate: 0.01, per_device_train_batch_size: 2, steps_per_round: 3, warmup_steps: 0}",
    "checkpoints.every_steps=1",
)
NO_OFFLINE = {"data__preferences": None, "evaluate": None}


pytestmark = pytest.mark.usefixtures("no_garbage_in_libraries", "one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("model") / "model", template=None)


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Recipe], model: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """`recipe("train.steps_per_round=1", ...)`: three steps of two pairs a round, of the policy's own alone."""
    policy = {"model_name_or_path": str(model)}
    return lambda *overrides, **changes: tiny_recipe(
        tmp_path, *SHORT, *overrides, **{"policy": policy, **NO_OFFLINE, **changes}
    )


def pairs_of(round_number: int = 1, source: str = "dpr") -> list[Preference]:
    return [
        Preference(
            prompt=f"prompt {number}",
            chosen=f"good {number}",
            rejected=f"bad {number}",
            source=source,
            prompt_ids=[30, 40 + number],
            chosen_ids=[50 + number, 60, 4],
            rejected_ids=[70 + number, 4],
            chosen_logp=-3.0,
            rejected_logp=-2.0,
            round=round_number,
            prompt_index=number,
            chosen_index=0,
            rejected_index=1,
            chosen_by="policy",
            rejected_by="policy",
        )
        for number in range(4)
    ]


@pytest.fixture
def begin(recipe: Callable[..., Recipe], model: Path, tmp_path: Path) -> Callable[..., AtWork]:
    """`begin("rounds=3", name="killed", ...)`: a process that is about to train round 1; its folders have the name."""

    def made(
        *overrides: str,
        name: str = "whole",
        held: Held | None = None,
        folders: dict[int, Path] | None = None,
        best: int | None = None,
        keeps_policy: bool = True,
        **options: Any,
    ) -> AtWork:
        there = {Artifact(number, PREFERENCES): pairs_of(number) for number in (1, 2)}
        held = held or Held(tmp_path / name, there, keeps_policy=keeps_policy)
        return AtWork(recipe(*overrides), Folders(folders or {0: model}, best), held, **options)

    return made


def weights(policy: Policy) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in policy.model.state_dict().items()}


def tensors(policy: Policy) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in policy.model.state_dict().values()])


def state_of(context: AtWork) -> TrainingState:
    state = read_training_state(context.held.place(CHECKPOINT))
    assert state is not None
    return state


def test_a_round_ends_with_its_figures_and_a_checkpoint_of_what_its_steps_made(
    begin: Callable[..., AtWork], model: Path
) -> None:
    context, initial = begin(), load_policy(model)
    done = Train().carry_out(context)
    steps, logps = context.held.written.pop(TRAINING), context.held.written.pop(REFERENCE_LOGPS)
    assert context.held.written == {}
    assert [step["step"] for step in steps] == [1, 2, 3]
    trained, kept = context.memory.policy_after(1), load_policy(context.held.place(CHECKPOINT))
    assert weights(trained) == weights(kept) != weights(initial)
    assert trained.version == kept.version != initial.version
    state = state_of(context)
    assert (state.round, state.global_step, state.parent, state.steps) == (1, 3, initial.version, None)
    assert (context.held.place(CHECKPOINT) / OPTIMIZER_NAME).is_file()
    assert context.memory.state.parent == initial.version and context.memory.state.round == 1
    assert done.figures == {
        "reference": initial.version,
        "global_batch_size": 2,
        "offline": {},
        "usage": {"dpr": {"1": 2, "2": 2}},
        "clipped_steps": 0,
        "last_step": steps[-1],
    }
    assert len(logps) == 4 and len({pair.reference for pair in logps}) == 1
    assert (done.continues_from, done.planned_rounds) == (None, None)
    steps_begin, asked = [(3, "steps"), ("found", 0)], context.watched.told[3:-5]
    assert context.watched.told == [*steps_begin, (4, "pairs"), *asked, *steps_begin, 1, 1, 1]
    assert sum(asked) == 4, "pairs that the reference was asked about"
    assert context.said == []


@pytest.mark.parametrize(("schedule", "planned"), [("run", 2), ("round", None)])
def test_a_round_without_a_checkpoint_says_what_a_replay_has_to_know(
    begin: Callable[..., AtWork], schedule: str, planned: int | None
) -> None:
    kept = begin(f"train.schedule={schedule}", name="kept")
    context = begin(f"train.schedule={schedule}", keeps_policy=False)
    assert Train().carry_out(kept).planned_rounds is None
    assert Train().carry_out(context).planned_rounds == planned
    assert not context.held.place(CHECKPOINT).exists()
    assert context.held.written == kept.held.written
    assert context.memory.policy_after(1).version == kept.memory.policy_after(1).version


def rates(context: AtWork) -> list[float]:
    return [step["learning_rate"] for step in context.held.written[TRAINING]]


def test_a_schedule_goes_through_all_rounds_or_begins_anew_in_each(begin: Callable[..., AtWork]) -> None:
    for schedule, first, second in (
        ("run", [6 / 6, 5 / 6, 4 / 6], [3 / 6, 2 / 6, 1 / 6]),
        ("round", [3 / 3, 2 / 3, 1 / 3], [3 / 3, 2 / 3, 1 / 3]),
    ):
        linear = (f"train.schedule={schedule}", "train.lr_scheduler_type=linear")
        context = begin(*linear)
        Train().carry_out(context)
        assert rates(context) == [pytest.approx(0.01 * share) for share in first]
        context.round = 2
        Train().carry_out(context)
        assert rates(context) == [pytest.approx(0.01 * share) for share in second]


def test_rounds_of_another_length_before_leave_the_schedule_its_end(begin: Callable[..., AtWork], model: Path) -> None:
    """A fork's first rounds may have had another number of steps: its last round ends where the rate does."""
    linear = ("train.lr_scheduler_type=linear", "rounds=3")
    first = begin(*linear, "train.steps_per_round=5", name="first")
    Train().carry_out(first)
    context = begin(*linear, folders={0: model, 1: first.held.place(CHECKPOINT)}, round_number=2)
    Train().carry_out(context)
    assert rates(context) == [pytest.approx(0.01 * left / 11) for left in (6, 5, 4)]
    assert state_of(context).parent == load_policy(first.held.place(CHECKPOINT)).version


def test_a_round_that_was_killed_goes_on_within_and_ends_in_the_same_bytes(
    begin: Callable[..., AtWork], model: Path, tmp_path: Path
) -> None:
    linear = "train.lr_scheduler_type=linear"
    whole = begin(linear)
    Train().carry_out(whole)
    work = WorkInProgress(tmp_path / "work", {"inputs": 1})
    with pytest.raises(KeyboardInterrupt):
        Train().carry_out(begin(linear, name="killed", work=work, killed_at=3))
    left = work.checkpoint()
    assert left is not None and left.name == "step-00000002"
    within = read_training_state(left)
    assert within is not None
    assert (within.round, within.parent, len(within.steps or ())) == (0, load_policy(model).version, 2)
    again = begin(linear, name="again", work=work)
    done = Train().carry_out(again)
    assert again.said == ["round 1 train: going on after step 2 of the round"]
    assert again.watched.told == [(3, "steps"), ("found", 2), 1]
    assert again.held.written == whole.held.written
    assert done.figures["usage"] == {"dpr": {"1": 2, "2": 2}}
    assert state_of(again) == state_of(whole)
    for name in ("model.safetensors", OPTIMIZER_NAME):
        one, other = (context.held.place(CHECKPOINT) / name for context in (whole, again))
        assert one.read_bytes() == other.read_bytes()


def test_a_checkpoint_from_within_a_round_without_a_state_is_passed_over(
    begin: Callable[..., AtWork], model: Path, tmp_path: Path
) -> None:
    work = WorkInProgress(tmp_path / "work", {"inputs": 1})
    work.keep_checkpoint(1, lambda folder: shutil.copytree(model, folder))
    context = begin(work=work)
    Train().carry_out(context)
    assert context.said == [] and [step["step"] for step in context.held.written[TRAINING]] == [1, 2, 3]


def test_a_round_within_has_the_reference_of_its_beginning_though_that_left_no_checkpoint(
    begin: Callable[..., AtWork], tmp_path: Path
) -> None:
    previous = ("policy.reference=previous", "train.steps_per_round=2")

    def first_round(context: AtWork) -> AtWork:
        """The context, with round 1 to be trained again, as nothing was kept of it."""
        trained = begin(*previous, name="first", keeps_policy=False)
        Train().carry_out(trained)
        again = AtWork(context.recipe, context.policies, trained.held)
        again.loaded = context.loaded
        context.memory.replay = lambda number: Train().replay(again)
        return context

    whole = first_round(begin(*previous, name="second", round_number=2))
    Train().carry_out(whole)
    work = WorkInProgress(tmp_path / "work", {"inputs": 1})
    with pytest.raises(KeyboardInterrupt):
        Train().carry_out(first_round(begin(*previous, name="killed", round_number=2, work=work, killed_at=2)))
    again = first_round(begin(*previous, name="again", round_number=2, work=work))
    Train().carry_out(again)
    assert "round 2 train: going on after step 1 of the round" in again.said
    assert again.held.written == whole.held.written
    assert again.memory.reference_for(2).version == whole.memory.reference_for(2).version


def test_a_replay_leaves_the_policy_that_the_round_made_and_writes_nothing(begin: Callable[..., AtWork]) -> None:
    first = begin(keeps_policy=False)
    Train().carry_out(first)
    written = dict(first.held.written)
    again = begin(held=first.held)
    Train().replay(again)
    assert first.held.written == written and not first.held.place(CHECKPOINT).exists()
    one, other = (context.memory.policy_after(1) for context in (first, again))
    assert weights(one) == weights(other)
    assert one.version == other.version


def test_a_replay_with_other_figures_is_refused(begin: Callable[..., AtWork]) -> None:
    context = begin(keeps_policy=False)
    Train().carry_out(context)
    context.held.written[TRAINING][1] = {**context.held.written[TRAINING][1], "loss": 7.0}
    with pytest.raises(RunError, match="round 1, which left no checkpoint, was trained again, and its steps") as caught:
        Train().replay(begin(held=context.held))
    assert caught.value.faults[0].where == "checkpoints.every_rounds"


class Memory:
    """Memory that holds so many rows of training, a pair in each, in a forward pass, from the nth pass on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int, from_pass: int = 1) -> None:
        forward, passes = LlamaForCausalLM.forward, 0

        def bounded(model: Any, input_ids: Any = None, **kwargs: Any) -> Any:
            nonlocal passes
            passes += torch.is_grad_enabled()
            if torch.is_grad_enabled() and len(input_ids) > most and passes >= from_pass:
                raise torch.OutOfMemoryError("none left")
            return forward(model, input_ids=input_ids, **kwargs)

        monkeypatch.setattr(LlamaForCausalLM, "forward", bounded)


HALVED = ("train.per_device_train_batch_size=1", "train.gradient_accumulation_steps=2")
CUT_NOTE = (
    "round 1 train: out of memory; the round begins again with 1 pair a forward pass and 2 passes a step, which is "
    "the same global batch. Set train.per_device_train_batch_size and train.gradient_accumulation_steps so next time"
)


@pytest.mark.parametrize("from_pass", [1, 2, 3])
def test_a_round_that_runs_out_of_memory_begins_again_with_half_a_pass_and_ends_where_smaller_passes_end(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, from_pass: int
) -> None:
    halved = begin(*HALVED, name="halved")
    Train().carry_out(halved)
    work = WorkInProgress(tmp_path / "work", {"inputs": 1})
    context = begin(work=work)
    Memory(monkeypatch, most=1, from_pass=from_pass)
    done = Train().carry_out(context)
    assert context.said == [CUT_NOTE]
    assert context.policies.cut == {1: MicroBatch(2, 1)}
    assert done.figures["global_batch_size"] == 2
    assert context.held.written == halved.held.written
    assert state_of(context) == state_of(halved)
    assert weights(context.memory.policy_after(1)) == weights(halved.memory.policy_after(1))
    left = work.checkpoint()
    assert left is not None and read_training_state(left) is not None
    again = begin(name="again", work=work)
    again.policies.cut = context.policies.cut
    Train().carry_out(again)
    assert weights(again.memory.policy_after(1)) == weights(halved.memory.policy_after(1))


def test_checkpoints_of_larger_passes_go_with_them(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = WorkInProgress(tmp_path / "work", {"inputs": 1})
    Memory(monkeypatch, most=1, from_pass=3)
    with pytest.raises(KeyboardInterrupt):
        Train().carry_out(begin(work=work, killed_at=3))  # two steps at first, and one that begins again
    assert work.checkpoint() is None


def test_what_is_left_of_a_killed_round_is_given_up_where_its_passes_no_longer_fit(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    halved = begin(*HALVED, name="halved")
    Train().carry_out(halved)
    work = WorkInProgress(tmp_path / "work", {"inputs": 1})
    with pytest.raises(KeyboardInterrupt):
        Train().carry_out(begin(work=work, killed_at=3))
    Memory(monkeypatch, most=1)
    again = begin(name="again", work=work)
    Train().carry_out(again)
    assert again.said == ["round 1 train: going on after step 2 of the round", CUT_NOTE]
    assert again.held.written == halved.held.written
    assert state_of(again) == state_of(halved)


def test_at_its_first_step_nothing_has_to_be_put_back(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the round before left no checkpoint, that would be to train it again."""
    context = begin()
    context.memory.policy_after(0)
    context.memory.reference_for(1)
    monkeypatch.setattr(context.memory, "begin_again", None)
    Memory(monkeypatch, most=1)
    Train().carry_out(context)
    assert context.said == [CUT_NOTE]


@pytest.mark.parametrize("steps_before", [0, 2])
def test_memory_may_run_out_before_the_first_step_too(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, steps_before: int
) -> None:
    halved = begin(*HALVED, name="halved")
    Train().carry_out(halved)
    work, tried = WorkInProgress(tmp_path / "work", {"inputs": 1}), []
    if steps_before:
        with pytest.raises(KeyboardInterrupt):
            Train().carry_out(begin(work=work, killed_at=steps_before + 1))

    def pools(*arguments: Any) -> Any:
        tried.append(arguments)
        if len(tried) == 1:
            raise MemoryError("none left")
        return training_pools(*arguments)

    monkeypatch.setattr("align_cli.stages.train_round.training_pools", pools)
    context = begin(work=work)
    Train().carry_out(context)
    assert context.said[-1] == CUT_NOTE
    assert context.held.written == halved.held.written
    assert state_of(context) == state_of(halved)


def test_memory_for_less_than_one_pair_is_a_fault(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(monkeypatch, most=0)
    context = begin(*HALVED)
    with pytest.raises(OutOfMemoryError) as caught:
        Train().carry_out(context)
    (fault,) = caught.value.faults
    assert (fault.what, fault.where) == ("out of memory: none left", "train")
    assert context.held.written == {}


def test_a_replay_cuts_nothing(begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(monkeypatch, most=1)
    context = begin()
    with pytest.raises(OutOfMemoryError) as caught:
        Train().replay(context)
    (fault,) = caught.value.faults
    assert fault.what == "out of memory while round 1, which left no checkpoint, was trained again: none left"
    assert fault.where == "checkpoints.every_rounds"
    assert context.policies.cut == {} and context.said == []


ROLLBACK = (
    "guards={non_finite: {action: rollback}}",
    "evaluate={num_prompts: 4, against: [initial], scorer: hidden}",
)


def ruined(context: AtWork) -> AtWork:
    """A weight of the policy in memory that no pair reads is not a number: a loss will not see it."""
    policy = context.memory.policy_after(0)
    policy.model.get_input_embeddings().weight.data[200, 0] = math.nan
    context.memory.reference_for(1)
    return context


def test_weights_that_no_loss_has_seen_are_looked_at_too(begin: Callable[..., AtWork]) -> None:
    context = ruined(begin())
    with pytest.raises(DivergedError) as caught:
        Train().carry_out(context)
    (fault,) = caught.value.faults
    assert (fault.what, fault.where) == ("training diverged: the last step's weights are not finite", "train")
    assert context.held.written == {} and not context.held.place(CHECKPOINT).exists()


def test_a_round_that_diverged_is_given_up_for_the_best_policy_where_the_recipe_says_so(
    begin: Callable[..., AtWork], model: Path
) -> None:
    context, initial = ruined(begin(*ROLLBACK, best=0)), load_policy(model)
    done = Train().carry_out(context)
    what = "training diverged: the last step's weights are not finite"
    assert done == ({"diverged": what, "policy_of_round": 0}, 0, None)
    assert context.said == [f"guard non_finite, round 1: {what}; the round ends with the policy of round 0"]
    assert [step["step"] for step in context.held.written[TRAINING]] == [1, 2, 3]
    assert weights(load_policy(context.held.place(CHECKPOINT))) == weights(initial)
    state = state_of(context)
    assert (state.round, state.global_step, state.parent) == (1, 3, initial.version)
    assert not (context.held.place(CHECKPOINT) / OPTIMIZER_NAME).exists()
    assert weights(context.memory.policy_after(1)) == weights(initial)
    assert (context.memory.state.round, context.memory.state.parent) == (1, initial.version)


def test_a_guard_without_a_round_to_go_back_to_says_that_training_diverged(begin: Callable[..., AtWork]) -> None:
    with pytest.raises(DivergedError):
        Train().carry_out(ruined(begin(*ROLLBACK)))


def test_steps_that_were_clipped_are_those_above_the_largest_norm(begin: Callable[..., AtWork]) -> None:
    one_step = "train.steps_per_round=1"

    def clipped(norm: float, *overrides: str) -> Any:
        context = begin(f"train.max_grad_norm={norm!r}", *overrides)
        return Train().carry_out(context).figures["clipped_steps"], context.held.written[TRAINING]

    _, steps = clipped(1e9, one_step)
    assert [clipped(norm, one_step)[0] for norm in (steps[0]["grad_norm"], steps[0]["grad_norm"] * 0.99)] == [0, 1]
    assert [clipped(norm)[0] for norm in (1e-6, 0.0)] == [3, 0]


def test_pairs_of_an_earlier_round_whose_source_has_no_share_any_more_are_not_replayed(
    begin: Callable[..., AtWork], model: Path, tmp_path: Path
) -> None:
    def figures(first: list[Preference], second: list[Preference]) -> dict[str, Any]:
        held = {Artifact(1, PREFERENCES): first, Artifact(2, PREFERENCES): second}
        context = begin(
            "train.replay_rounds=1",
            held=Held(tmp_path / "out", held),
            folders={0: model, 1: tmp_path / "first"},
            round_number=2,
        )
        return Train().carry_out(context).figures

    save_checkpoint(tmp_path / "first", load_policy(model), TrainingState(1, 3, None), None)
    strange, second = pairs_of(1, "dmd"), pairs_of(2)
    assert figures([*pairs_of(1), *strange], second)["usage"] == {"dpr": {"1": 6}}
    assert figures(strange, second)["usage"] == {"dpr": {"1": 2, "2": 2}}
    with pytest.raises(DataError, match="4 pairs have source 'dmd', which has no share"):
        figures(pairs_of(1), [*second, *pairs_of(2, "dmd")])


def test_a_round_that_brought_no_pairs_trains_on_the_offline_ones(
    begin: Callable[..., AtWork], recipe: Callable[..., Recipe], model: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "pairs.jsonl"
    rows.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3, encoding="utf-8")
    offline = recipe("method.sources={offline: {mixing: 1}}", data={"preferences": str(rows)}, labelers=None)
    context = AtWork(offline, Folders({0: model}), Held(tmp_path / "out"))
    figures = Train().carry_out(context).figures
    assert (figures["offline"], figures["usage"]) == ({"pairs": 3}, {"offline": {"2": 3}})
    assert pair_rounds(offline, context.held, 1) == []
    (read,) = Train().to_read(offline, Inputs(offline))
    assert (read.key, len(read.rows)) == ("data.preferences", 3)
    assert read.read() == {"pairs": 3}


def test_keys_and_labels_of_offline_pairs_are_looked_at_before_anything_is_loaded(
    recipe: Callable[..., Recipe], model: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "pairs.jsonl"
    rows.write_text('{"prompt": "a", "chosen": "b", "rejected": "b", "label": 0.75}\n', encoding="utf-8")
    files: dict[str, Any] = {"data": {"preferences": str(rows)}, "labelers": None}
    wrong = ("train.optim_args=nonsense", "method.loss_type=apo_zero")

    def faults(checked: Recipe) -> list[str]:
        with pytest.raises(AlignError) as caught:
            Train().check(checked, AtWork(checked, Folders({0: model}), Held(tmp_path)).memory)
        return [f"{fault.where.split(':')[-1]} {fault.what}" for fault in caught.value.faults]

    found = faults(recipe("method.sources={offline: {mixing: 1}}", *wrong, **files))
    assert len(found) == 2
    assert "optim_args" in found[0]
    assert "1 pair has a label below 1" in found[1]
    assert len(faults(recipe(wrong[0]))) == 1
    unused = recipe("method.loss_type=apo_zero", data={**files["data"], "prompts": "playground"})
    Train().check(unused, AtWork(unused, Folders({0: model}), Held(tmp_path)).memory)
    (read,) = Train().to_read(unused, Inputs(unused))
    assert (read.key, list(read.rows)) == ("data.preferences", []), "no source takes them"


class Watched:
    """Over how many rows models run from here on, and how many weights the reference has when a gradient is made."""

    def __init__(self, context: AtWork, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[bool, int] = {True: 0, False: 0}
        self.weights_at_backward: set[int] = set()
        memory, forward = context.memory, LlamaForCausalLM.forward

        def noting(model: Any, input_ids: Any = None, **kwargs: Any) -> Any:
            reference = memory._reference
            self.rows[reference is not None and model is reference.model] += len(input_ids)
            if torch.is_grad_enabled() and reference is not None:
                self.weights_at_backward.add(sum(one.numel() for one in reference.model.parameters()))
            return forward(model, input_ids=input_ids, **kwargs)

        monkeypatch.setattr(LlamaForCausalLM, "forward", noting)

    @property
    def rows_of_reference(self) -> int:
        return self.rows[True]


def test_the_reference_has_no_weights_while_a_policy_is_trained_that_needs_its_log_probabilities_alone(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    context, initial = begin(), load_policy(model)
    watched = Watched(context, monkeypatch)
    Train().carry_out(context)
    assert watched.weights_at_backward == {0}
    reference = context.memory.reference_for(1, in_name=True)
    assert reference.version == initial.version and not any(one.numel() for one in reference.model.parameters())
    assert context.memory.reference_for(1) is reference and weights(reference) == weights(initial)


def test_a_reference_that_no_checkpoint_can_bring_back_stays(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = ("policy.reference=previous",)
    first = begin(*previous, name="first", keeps_policy=False)
    Train().carry_out(first)
    second = begin(*previous, name="second", round_number=2)
    second.loaded, second.memory = first.loaded, first.memory
    watched = Watched(second, monkeypatch)
    trained = weights(second.memory.policy_after(1))
    Train().carry_out(second)
    assert 0 not in watched.weights_at_backward
    assert weights(second.memory.reference_for(2)) == trained


def in_turn(begin: Callable[..., AtWork], first: AtWork, *overrides: str, **options: Any) -> AtWork:
    """Round 2, behind a first one that is over, in a process of its own."""
    there = {**first.held.held, Artifact(1, REFERENCE_LOGPS): first.held.written[REFERENCE_LOGPS]}
    there[Artifact(1, TRAINING)] = first.held.written[TRAINING]
    name = options.pop("name", "second")
    folders = {0: first.policies.folders[0], 1: first.held.place(CHECKPOINT)}
    held = Held(first.held.place("").parent / name, there)
    return begin(*overrides, held=held, folders=folders, round_number=2, **options)


REPLAYED = ("train.replay_rounds=1", "train.steps_per_round=4", "method.importance_weight_cap=null")


def test_a_round_asks_the_reference_about_what_no_round_before_has_asked(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pairs of both rounds are the same tokens here."""
    first = begin(*REPLAYED)
    Train().carry_out(first)
    assert len(first.held.written[REFERENCE_LOGPS]) == 4
    monkeypatch.setattr("align_cli.stages.train_round._agreement_with_policy", lambda *_: None)
    second = in_turn(begin, first, *REPLAYED)
    watched = Watched(second, monkeypatch)
    Train().carry_out(second)
    assert watched.rows_of_reference == 0 and REFERENCE_LOGPS not in second.held.written
    assert Train().takes_over(second.recipe, second.held, 2) == [Artifact(1, REFERENCE_LOGPS)]


@pytest.mark.parametrize("change", ["policy.reference=previous", "train.kernel=plain"])
def test_another_reference_and_one_that_is_run_otherwise_are_asked_anew(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    first = begin(*REPLAYED)
    Train().carry_out(first)
    second = in_turn(begin, first, *REPLAYED, change)
    Train().carry_out(second)
    logps = second.held.written[REFERENCE_LOGPS]
    assert {pair.chosen for pair in logps} == {pair.chosen for pair in first.held.written[REFERENCE_LOGPS]}
    assert not {pair.reference for pair in logps} & {pair.reference for pair in first.held.written[REFERENCE_LOGPS]}


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_what_the_reference_said_is_the_same_in_a_round_that_was_killed(
    begin: Callable[..., AtWork], tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, work = begin(), WorkInProgress(tmp_path / "work", {"inputs": 1})
    Train().carry_out(whole)
    with pytest.raises(KeyboardInterrupt):
        Train().carry_out(begin(work=work, killed_at=killed_at))
    again = begin(name="again", work=work)
    watched = Watched(again, monkeypatch)
    Train().carry_out(again)
    assert again.held.written == whole.held.written
    assert watched.rows_of_reference == 0, "what it was asked lies in the journal"


def test_a_round_that_is_done_again_takes_what_it_was_told_itself(
    begin: Callable[..., AtWork], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begin(keeps_policy=False)
    Train().carry_out(first)
    there = {Artifact(1, REFERENCE_LOGPS): first.held.written[REFERENCE_LOGPS]}
    again = begin(held=Held(first.held.place(""), {**first.held.held, **there}))
    again.held.written.update(first.held.written)
    watched = Watched(again, monkeypatch)
    Train().replay(again)
    assert watched.rows_of_reference == 0
    assert again.memory.policy_after(1).version == first.memory.policy_after(1).version
