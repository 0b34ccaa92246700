"""Out of memory is not the end: training and sampling cut what they do at once, and end where they would have.

Memory that runs out is played by a model that refuses more than so many sequences at a time.
"""

from __future__ import annotations

import errno
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_runs import killed_at_step, train
from run_fixtures import NO_EVALUATION, MakeFolder, files_below
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.engines.in_process import TransformersEngine
from align_cli.errors import AlignError, OutOfMemoryError
from align_cli.models.load import Policy, load_policy
from align_cli.models.memory import memory_fault, out_of_memory_as_memory_error
from align_cli.run.folder import RunFolder
from align_cli.run.folder.begun import Begun
from align_cli.run.folder.lineage import Origin
from align_cli.training.resumable import _BeginAndEnd

CPU = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
SMALL: dict[str, Any] = {
    "policy": {"model_name_or_path": "./model"},
    "train__steps_per_round": 2,
    "train__per_device_train_batch_size": 8,
    "train__schedule": "round",
    "generate__max_new_tokens": 8,
    "generate__prompts_per_round": 8,
    "checkpoints": {"every_steps": 1, "optimizer": "all"},
    **NO_EVALUATION,
}
pytestmark = pytest.mark.usefixtures("no_garbage_in_libraries")
HALVED = ("train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2")


class Memory:
    """How many sequences a forward pass may have; `None` for any number.

    Args:
        error: what is raised beyond.
    """

    def __init__(self, error: Callable[[], Exception]) -> None:
        self.error = error
        self.most: int | None = None
        self.in_training: int | None = None
        self.largest = 0

    def forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def bounded(model: Any, input_ids: Any = None, **kwargs: Any) -> Any:
            most = self.in_training if torch.is_grad_enabled() else self.most
            mask = kwargs.get("attention_mask")
            shares = mask is not None and mask.dim() == 4  # a row then holds a prompt and both of a pair's responses
            sequences = len(input_ids) * (2 if shares else 1)
            if most is not None and sequences > most:
                raise self.error()
            self.largest = max(self.largest, sequences) if torch.is_grad_enabled() else self.largest
            return forward(model, input_ids=input_ids, **kwargs)

        return bounded

    def fill_after_step(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """From this step of the process on, there is memory for eight sequences."""
        on_step_end, calls = _BeginAndEnd.on_step_end, 0

        def filling(*args: Any, **kwargs: Any) -> None:
            nonlocal calls
            calls += 1
            self.in_training = 8 if calls == number else self.in_training
            on_step_end(*args, **kwargs)

        monkeypatch.setattr(_BeginAndEnd, "on_step_end", filling)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Memory that runs out on a GPU, in the model's forward pass."""
    memory = Memory(lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nmore words"))
    monkeypatch.setattr(LlamaForCausalLM, "forward", memory.forward(LlamaForCausalLM.forward))
    return memory


def checkpoint(run: str, number: int) -> dict[str, torch.Tensor]:
    """Weights and optimizer of a round."""
    folder = Path(run, "rounds", f"{number:03d}", "checkpoint")
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "optimizer.safetensors")}


def assert_same_training(run: str, other: str, number: int) -> None:
    ours, theirs = checkpoint(run, number), checkpoint(other, number)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(scope="module")
def runs(make_folder: MakeFolder, tiny_policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of two rounds: `whole` with eight pairs a forward pass, `halved` with four. Shared."""
    folder = make_folder(tmp_path_factory.mktemp("memory"), **SMALL)
    shutil.copytree(tiny_policy_folder, folder / "model")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        train("output_dir=whole")
        train("output_dir=halved", *HALVED)
    return folder


@pytest.fixture
def folder(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, to work in."""
    copy = Path(shutil.copytree(runs, tmp_path / "copy"))
    monkeypatch.chdir(copy)
    return copy


NOTE = (
    "round 1 train: out of memory; the round begins again with 4 pairs a forward pass and 2 passes a step, which is "
    "the same global batch. Set train.per_device_train_batch_size and train.gradient_accumulation_steps so next time"
)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU)], ids=["GPU", "CPU"]
)
def test_training_that_runs_out_of_memory_goes_on_with_half_a_forward_pass_at_the_same_global_batch(
    folder: Path, memory: Memory, error: Exception
) -> None:
    memory.error, memory.in_training = lambda: error, 8
    said = train("output_dir=out", f"rounds={2 if isinstance(error, torch.OutOfMemoryError) else 1}")
    assert [line for line in said if "memory" in line] == [NOTE]
    assert memory.largest == 8  # four pairs
    assert_same_training("out", "halved", 1)
    rounds = sorted(path.name for path in Path("out/rounds").iterdir())
    for number in rounds:
        ours, theirs = files_below(Path("out/rounds", number)), files_below(Path("halved/rounds", number))
        assert [name for name in ours if ours[name] != theirs[name] and name != "manifest.json"] == []


@pytest.mark.long
def test_a_second_round_that_runs_out_of_memory_goes_back_to_where_it_began(folder: Path, memory: Memory) -> None:
    train("output_dir=forked", *HALVED, origin=Origin(Path("whole"), 1))
    train("output_dir=out", "rounds=1")
    memory.in_training = 8
    said = train("output_dir=out")
    assert [line for line in said if "memory" in line] == [NOTE.replace("round 1", "round 2")]
    assert_same_training("out", "forked", 2)


def test_in_one_process_a_later_round_has_the_weights_and_the_moments_of_the_one_before(
    folder: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("output_dir=forked", *HALVED, origin=Origin(Path("whole"), 1))
    memory.fill_after_step(3, monkeypatch)  # in the midst of round 2
    said = train("output_dir=out")
    assert [line for line in said if "memory" in line] == [NOTE.replace("round 1", "round 2")]
    assert_same_training("out", "forked", 2)


def test_merged_updates_are_those_of_the_round_before_when_a_round_begins_again(
    folder: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ("policy.lora={rank: 2, between_rounds: merge}", "rounds=3")
    train("output_dir=whole_adapters", *HALVED, *keys)
    memory.fill_after_step(3, monkeypatch)
    said = train("output_dir=out", *keys)
    assert [line for line in said if "memory" in line] == [NOTE.replace("round 1", "round 2")]
    for number in ("002", "003"):
        ours, theirs = (
            load_file(Path(run, "rounds", number, "checkpoint", "adapter_model.safetensors"))
            for run in ("out", "whole_adapters")
        )
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)


def test_the_processes_after_one_that_ran_out_of_memory_cut_their_batches_likewise_and_end_in_the_same_bytes(
    folder: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.in_training = 8
    with killed_at_step(monkeypatch, 2):
        train("output_dir=out", "rounds=1")
    assert json.loads(Path("out/run.json").read_text())["micro_batches"] == {"1": [8, 4]}
    said = train("output_dir=out", "rounds=1")
    assert said[-1] == "round 1 train: going on after step 1 of the round"
    said += train("output_dir=out")
    assert NOTE not in said  # the memory was not tried again
    assert memory.largest == 8
    for number in (1, 2):
        ours, theirs = (files_below(Path(run, "rounds", f"{number:03d}")) for run in ("out", "halved"))
        assert [name for name in ours if ours[name] != theirs[name] and name != "manifest.json"] == []


def test_what_was_remembered_and_is_damaged_is_passed_over(folder: Path, memory: Memory) -> None:
    document = json.loads(Path("whole/run.json").read_text())
    del document["crc32"]  # without it, what is written there is believed as far as it can be
    damaged = ([], {"one": [8, 4]}, {"1": 4}, {"1": ["8", 4]}, {"1": [8, 0]}, {"1": [4, 8]}, {"1" * 5000: [8, 4]})
    for found in damaged:
        Path("whole/run.json").write_text(json.dumps({**document, "micro_batches": found}))
        assert RunFolder("whole").begun.micro_batches() == {}


def test_what_was_remembered_for_another_batch_size_does_not_hold(folder: Path, memory: Memory) -> None:
    """Until a round is trained, the recipe may still change."""
    memory.in_training = 8
    with pytest.MonkeyPatch.context() as patched, killed_at_step(patched, 2):
        train("output_dir=out", "rounds=1")
    memory.in_training = None
    other = ("train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=4")
    train("output_dir=out", "rounds=1", *other)
    train("output_dir=clean", "rounds=1", *other)
    assert_same_training("out", "clean", 1)
    assert Path("out/rounds/001/training.jsonl").read_bytes() == Path("clean/rounds/001/training.jsonl").read_bytes()


def test_killed_before_it_remembers_a_run_has_no_checkpoints_of_larger_passes(
    folder: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be gone on from with smaller ones."""
    with killed_at_step(monkeypatch, 2):
        train("output_dir=out", "rounds=1")
    memory.in_training = 8
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Begun, "remember_micro_batch", _interrupted)
        train("output_dir=out", "rounds=1")
    train("output_dir=out", "rounds=1")
    ours, theirs = (Path(run, "rounds/001/training.jsonl").read_bytes() for run in ("out", "halved"))
    assert ours == theirs


SPARSE = ("rounds=3", "checkpoints.every_rounds=4", "checkpoints.every_steps=null")


def test_memory_that_runs_out_between_checkpoints_costs_no_round_that_is_done(
    folder: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a round's first step nothing has to be put back; later the rounds since the checkpoint are trained again, in
    the passes that they had. Where the memory no longer holds those, that is said, and nothing is lost."""
    on_step_end, calls, full_from = _BeginAndEnd.on_step_end, 0, 2

    def filling(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        memory.in_training = 8 if calls == full_from else memory.in_training
        on_step_end(*args, **kwargs)

    monkeypatch.setattr(_BeginAndEnd, "on_step_end", filling)
    said = train("output_dir=first", *SPARSE)  # from the end of round 1 on
    assert [line for line in said if "memory" in line] == [NOTE.replace("round 1", "round 2")]
    assert json.loads(Path("first/run.json").read_text())["micro_batches"] == {"2": [8, 4]}

    calls, full_from, memory.in_training = 0, 3, None
    with pytest.raises(
        OutOfMemoryError, match="out of memory while round 1, which left no checkpoint, was trained again"
    ):
        train("output_dir=later", *SPARSE)  # in the midst of round 2
    assert json.loads(Path("later/run.json").read_text())["micro_batches"] == {"2": [8, 4]}
    calls, full_from, memory.in_training = 0, -1, None
    train("output_dir=later", *SPARSE)
    assert files_below(Path("later/rounds")) == files_below(Path("first/rounds"))


def test_a_passing_shortage_while_rounds_are_trained_again_leaves_the_run_as_it_was(
    folder: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("output_dir=undisturbed", *SPARSE)
    with killed_at_step(monkeypatch, 5):
        train("output_dir=out", *SPARSE)
    memory.in_training = 8
    with pytest.raises(OutOfMemoryError, match="run the same command again with as much memory"):
        train("output_dir=out", *SPARSE)
    assert "micro_batches" not in json.loads(Path("out/run.json").read_text())
    memory.in_training = None
    train("output_dir=out", *SPARSE)
    assert files_below(Path("out/rounds")) == files_below(Path("undisturbed/rounds"))


def test_memory_for_no_more_than_one_pair_is_enough_and_for_less_is_a_fault(folder: Path, memory: Memory) -> None:
    memory.in_training = 2
    short = ("rounds=1", "train.steps_per_round=1")
    said = train("output_dir=out", *short)
    assert [line.split("with ")[1].split(" pair")[0] for line in said if "memory" in line] == ["4", "2", "1"]
    assert "with 1 pair a forward pass and 8 passes a step" in said[-1]
    memory.in_training = 1
    with pytest.raises(AlignError) as caught:
        train("output_dir=out", "rounds=2", *short[1:])
    (fault,) = caught.value.faults
    assert fault.where == "train"
    assert fault.what == "out of memory: CUDA out of memory. Tried to allocate 9.00 GiB."
    assert fault.hint == (
        "one pair a forward pass is too much: lower generate.max_new_tokens, set train.gradient_checkpointing to true, "
        "or take a smaller model"
    )


def test_a_global_batch_that_halves_do_not_divide_is_kept(folder: Path, memory: Memory) -> None:
    memory.in_training = 11
    said = train("output_dir=out", "rounds=1", "train.steps_per_round=1", "train.per_device_train_batch_size=9")
    assert "with 3 pairs a forward pass and 3 passes a step" in said[-1]


def test_other_errors_of_torch_are_bugs_and_stay_what_they_are(folder: Path, memory: Memory) -> None:
    memory.error, memory.in_training = lambda: RuntimeError("expected scalar type Float but found Half"), 8
    with pytest.raises(RuntimeError, match="expected scalar type Float"):
        train("output_dir=out", "rounds=1")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.OutOfMemoryError(""),
        RuntimeError(CPU),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError("none left"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("Failed to import trl because of the following error:\nlib.so: cannot allocate memory"),
    ],
    ids=repr,
)
def test_all_that_says_out_of_memory_is_one_error_of_one_line(error: Exception) -> None:
    with pytest.raises(MemoryError) as caught, out_of_memory_as_memory_error():
        raise error
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_behind_an_error_is_looked_at_and_other_errors_stay_what_they_are() -> None:
    failed = RuntimeError("Failed to import trl")
    assert memory_fault(failed) is None
    failed.__cause__ = MemoryError()
    assert memory_fault(failed) == "no more is to be had"
    assert memory_fault(AlignError("the labeler says: out of memory")) is None
    assert memory_fault(OSError(errno.ENOSPC, "No space left on device")) is None


def test_a_stage_that_runs_out_of_memory_names_the_keys_that_make_it_smaller(folder: Path, memory: Memory) -> None:
    memory.most = 3
    with pytest.raises(OutOfMemoryError) as caught:
        train("output_dir=out", "rounds=1", "method.sources={dpp: {mixing: 1.0}}")
    assert str(caught.value) == (
        "round 1 label: out of memory: CUDA out of memory. Tried to allocate 9.00 GiB.\n"
        "hint: lower the labeler's batch_size, and generate.batch_size where the policy labels itself"
    )


@pytest.mark.parametrize("error", [RuntimeError(CPU), MemoryError()], ids=repr)
def test_a_model_that_the_memory_does_not_hold_is_no_damaged_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", load)
    with pytest.raises(OutOfMemoryError, match=r"generate: out of memory: .*\nhint: lower generate\.batch_size"):
        train("output_dir=out", "rounds=1")


def test_what_ran_out_of_memory_is_let_go_before_anything_is_tried_again() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def fail() -> None:
        activations = torch.zeros(9)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(MemoryError) as caught, out_of_memory_as_memory_error():
        fail()
    assert caught.value is not None and held[0]() is None


SETTINGS = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=8)


def sample(policy: Policy, requests: list[Request], batch_size: int) -> tuple[list[Sample], list[str]]:
    notes: list[str] = []
    batches = TransformersEngine(batch_size, notes.append).generate(policy, requests, SETTINGS)
    samples = dict(entry for batch in batches for entry in batch)
    return [samples[index] for index in sorted(samples)], notes


@pytest.fixture
def requests() -> list[Request]:
    return [Request([3, 4 + number][: 1 + number % 2], number) for number in range(13)]


@pytest.mark.parametrize("most", [6, 5, 3, 1])
def test_a_batch_that_the_memory_does_not_hold_is_sampled_in_parts_to_the_same_tokens(
    tiny_policy_folder: Path, memory: Memory, requests: list[Request], most: int
) -> None:
    policy = load_policy(tiny_policy_folder)
    whole, notes = sample(policy, requests, 6)
    assert notes == []
    memory.most = most
    parts, notes = sample(policy, requests, 6)
    assert [part.token_ids for part in parts] == [one.token_ids for one in whole]
    for part, one in zip(parts, whole, strict=True):
        assert part.logps == pytest.approx(one.logps, abs=1e-5)
    said = "out of memory with {} sequences together; going on with {} at a time. Lower generate.batch_size next time"
    halves = {6: [], 5: [(6, 3)], 3: [(6, 3)], 1: [(6, 3), (3, 2), (2, 1)]}[most]
    assert notes == [said.format(*sizes) for sizes in halves]  # each once, however many batches there are


def test_one_response_that_the_memory_does_not_hold_is_a_fault(
    tiny_policy_folder: Path, memory: Memory, requests: list[Request]
) -> None:
    memory.most = 0
    with pytest.raises(AlignError) as caught:
        sample(load_policy(tiny_policy_folder), requests, 4)
    assert str(caught.value) == (
        "generate: out of memory while one response was sampled: CUDA out of memory. Tried to allocate 9.00 GiB.\n"
        "hint: lower generate.max_new_tokens, or take a smaller model"
    )


def test_a_run_says_that_it_samples_in_parts_and_ends_with_the_same_completions(folder: Path, memory: Memory) -> None:
    memory.most, before = 5, files_below(Path("whole/rounds"))
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("align_cli.stages.label.Label.carry_out", _interrupted)
        train("output_dir=out", "rounds=1")
    assert Path("out/rounds/001/completions.jsonl").read_bytes() != b""
    rows = [line.split('"logps"')[0] for line in Path("out/rounds/001/completions.jsonl").read_text().splitlines()]
    whole = [line.split('"logps"')[0] for line in before["001/completions.jsonl"].decode().splitlines()]
    assert rows == whole


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_warm_start_that_runs_out_of_memory_is_a_fault_with_a_remedy(folder: Path, memory: Memory) -> None:
    memory.in_training = 15
    with pytest.raises(AlignError) as caught:
        sft = "policy.sft={dataset: playground, max_steps: 1, per_device_train_batch_size: 16}"
        train("output_dir=out", "rounds=1", sft)
    assert str(caught.value) == (
        "policy.sft: out of memory: CUDA out of memory. Tried to allocate 9.00 GiB.\n"
        "hint: lower policy.sft.per_device_train_batch_size, or take a smaller model"
    )
