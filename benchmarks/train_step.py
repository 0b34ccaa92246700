"""A train step's forward and backward pass on a CPU, beside TRL's DPOTrainer in the same process, on the same pairs.

    make smollm2
    OMP_NUM_THREADS=1 python benchmarks/train_step.py > benchmarks/results/train_step.md

Each repetition runs every trainer once, in turn, on one batch; ratios are taken within a repetition, and their median,
least and most are shown, so that a noisy machine shifts all alike. CPU seconds of the process are counted. Before
anything is timed, losses and gradients of all are compared with TRL's. Each trainer's peak memory is that of a process
of its own. TRL's fused head is made for GPUs, and slow here: on a GPU the ratios are others (benchmarks/gpu.py).

"The reference known": no pass of the reference is in the step. TRL computes its log-probabilities before training,
align before a round, of pairs that no round had before, and lets go of the reference. The floor is what the step's own
matrix products take, timed alone on random numbers of the same shapes. A second table says where the time of a step
goes. float32, no gradient checkpointing, random tokens; random weights but for SmolLM2. About half an hour on an idle
core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset, disable_progress_bars
from spread import spread
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from trl import DPOConfig, DPOTrainer

from align_cli.models.adapters import AdaptedModel
from align_cli.models.load import Policy
from align_cli.models.lora import lora_config
from align_cli.models.memory import give_back_freed
from align_cli.playground.model import make_word_tokenizer
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.policy import PolicySection
from align_cli.training.batches import TrainingPair
from align_cli.training.known import RoundsReference
from align_cli.training.objective import Objective, SourceTerms
from align_cli.training.trainer import PreferenceTrainer

SMOLLM2 = Path(__file__).parent.parent / "models" / "smollm2-135m-instruct"
FIRST_WORD, NUM_WORDS, EOS = 3, 1000, 1
LORA = LoraSection(rank=16, alpha=32)


class Row(NamedTuple):
    """What is trained on what: tokens of a prompt and of a response, pairs, the model's size."""

    vocabulary: int
    prompt: int
    response: int
    pairs: int
    layers: int
    width: int
    lora: bool = False
    is_smollm2: bool = False

    @property
    def title(self) -> str:
        """As the table has it."""
        model = "SmolLM2-135M" if self.is_smollm2 else f"{self.layers} × {self.width}"
        return (
            f"{model}{', LoRA' if self.lora else ''}, vocabulary {self.vocabulary // 1000}k, "
            f"{self.prompt}/{self.response}, {self.pairs} pairs"
        )


ROWS = {
    "32k": Row(32_000, 512, 128, 4, 6, 384),
    "152k": Row(151_936, 192, 128, 2, 6, 384),
    "49k": Row(49_152, 128, 128, 4, 8, 576),
    "long": Row(32_000, 192, 512, 2, 6, 384),
    "smollm2": Row(49_152, 128, 128, 4, 30, 576, is_smollm2=True),
    "smollm2-lora": Row(49_152, 128, 128, 4, 30, 576, lora=True, is_smollm2=True),
}
TRL, TRL_KNOWN, ALIGN, ALIGN_KNOWN = "TRL", "TRL, the reference known", "align", "align, the reference known"
ALIGN_PLAIN, ALIGN_KL = "align, train.kernel plain", "align, KL on all responses"
TRAINERS = (TRL, TRL_KNOWN, ALIGN, ALIGN_KNOWN, ALIGN_PLAIN, ALIGN_KL)


class Step(NamedTuple):
    """One trainer's step: `run` does it, and leaves gradients in the model; it returns the loss."""

    run: Callable[[], float]
    model: Any


def make_pairs(row: Row) -> list[TrainingPair]:
    """Pairs of random tokens; every response ends with the end-of-sequence token."""
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(FIRST_WORD, FIRST_WORD + NUM_WORDS) for _ in range(count)]

    def answer() -> list[int]:
        return [*tokens(row.response - 1), EOS]

    return [TrainingPair(tokens(row.prompt), answer(), answer(), 1.0, 0, index, index) for index in range(row.pairs)]


def tokenizer() -> Any:
    """One whose tokens are words that none other begins with."""
    return make_word_tokenizer([f" w{number}" for number in range(NUM_WORDS)])


def make_model(row: Row, seed: int) -> PreTrainedModel:
    """Seed 0 is the policy, seed 1 the reference; SmolLM2's reference is itself, a little moved."""
    torch.manual_seed(seed)
    if row.is_smollm2:
        model = AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32)
        if seed:
            with torch.no_grad():
                model.model.norm.weight.mul_(1.01)
        return model
    inner, heads = row.width * 8 // 3 // 64 * 64, row.width // 64
    config = LlamaConfig(
        vocab_size=row.vocabulary,
        hidden_size=row.width,
        intermediate_size=inner,
        num_hidden_layers=row.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def arguments(row: Row, folder: Path, **more: Any) -> DPOConfig:
    """The same for both."""
    return DPOConfig(
        output_dir=str(folder), bf16=False, use_cpu=True, gradient_checkpointing=False, max_length=None, max_steps=1,
        per_device_train_batch_size=row.pairs, report_to="none", disable_tqdm=True, dataloader_pin_memory=False, **more,
    )  # fmt: skip


def step_of_trl(row: Row, folder: Path, *, is_known: bool) -> Step:
    """TRL's own trainer and loss."""

    def text(ids: list[int]) -> str:
        return "".join(f" w{number - FIRST_WORD}" for number in ids if number != EOS)

    rows = [
        {"prompt": text(one.prompt_ids), "chosen": text(one.chosen_ids), "rejected": text(one.rejected_ids)}
        for one in make_pairs(row)
    ]
    more = {"peft_config": lora_config(LORA)} if row.lora else {"ref_model": make_model(row, 1)}
    trainer = DPOTrainer(
        model=make_model(row, 0),
        args=arguments(row, folder, precompute_ref_log_probs=is_known),
        processing_class=tokenizer(),
        train_dataset=Dataset.from_list(rows),
        **more,
    )
    inputs = trainer._prepare_inputs(
        trainer.data_collator([trainer.train_dataset[number] for number in range(row.pairs)])
    )
    assert inputs["input_ids"].shape == (2 * row.pairs, row.prompt + row.response)
    trainer.model.train()

    def run() -> float:
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        return float(loss)

    return Step(run, trainer.model)


def step_of_align(row: Row, folder: Path, *, is_known: bool = False, **settings: Any) -> Step:
    """The trainer of a round."""
    objective = Objective((SourceTerms("offline"),), kl_on_all=True, **settings)
    args = arguments(row, folder, remove_unused_columns=False)
    policy: Policy
    reference: Policy
    if row.lora:
        base = folder / "base"
        make_model(row, 0).save_pretrained(base)
        tokenizer().save_pretrained(base)
        adapted = AdaptedModel(PolicySection(model_name_or_path=str(base), dtype="float32", lora=LORA), 0)
        policy, reference = adapted.policy(None), adapted.frozen(None)
    else:
        policy, reference = (Policy(make_model(row, seed), tokenizer(), "") for seed in (0, 1))
    trainer, pairs = PreferenceTrainer(policy, reference.model, objective, args), make_pairs(row)
    batch = trainer.data_collator(pairs)
    if is_known:
        trainer.know([pairs], RoundsReference(let_go=reference.let_go))
        give_back_freed()
    trainer.model.train()

    def run() -> float:
        if not is_known:
            trainer.know([pairs])
        parts = trainer.passes(dict(batch))
        loss = torch.stack([trainer.compute_loss(trainer.model, part) for part in parts]).sum()
        loss.backward()
        return float(loss)

    return Step(run, policy.model)


def make_step(title: str, row: Row, folder: Path) -> Step:
    """A trainer's step by its title."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Callable[[], Step]] = {
        TRL: lambda: step_of_trl(row, folder, is_known=False),
        TRL_KNOWN: lambda: step_of_trl(row, folder, is_known=True),
        ALIGN: lambda: step_of_align(row, folder),
        ALIGN_KNOWN: lambda: step_of_align(row, folder, is_known=True),
        ALIGN_PLAIN: lambda: step_of_align(row, folder, plain=True),
        ALIGN_KL: lambda: step_of_align(row, folder, kl_coefficient=0.02),
    }
    return made[title]()


class Products(TorchDispatchMode):
    """Writes down the matrix products that are made, attention's among them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[int, int, int, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Of each: how many at once, and rows, inner size and columns."""
        name = func._schema.name.removeprefix("aten::")
        if name in ("mm", "addmm", "addmm_", "bmm", "baddbmm"):
            left, right = args[-2:] if name.startswith(("addmm", "baddbmm")) else args[:2]
            count = left.shape[0] if left.dim() == 3 else 1
            self.found[count, left.shape[-2], left.shape[-1], right.shape[-1]] += 1
        elif name.startswith("_scaled_dot_product_flash_attention_for_cpu"):
            is_backward = name.endswith("backward")
            query, key = args[1:3] if is_backward else args[:2]
            batch, heads, rows, width = query.shape
            self.found[batch * heads, rows, width, key.shape[-2]] += 3 if is_backward else 1
            self.found[batch * heads, rows, key.shape[-2], width] += 2 if is_backward else 1
        return func(*args, **(kwargs or {}))

    def seconds(self) -> float:
        """CPU seconds of these products alone, the better of two."""
        return min(self._once() for _ in range(2))

    def _once(self) -> float:
        total = 0.0
        for (count, rows, inner, columns), times in self.found.items():
            left, right = torch.randn(count, rows, inner), torch.randn(count, inner, columns)
            begin = time.process_time()
            for _ in range(times):
                torch.bmm(left, right)
            total += time.process_time() - begin
        return total


KINDS = {
    "matrix products": "mm addmm addmm_ bmm",
    "attention": "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention_for_cpu_backward",
    "softmax over the vocabulary": "_log_softmax exp exp_ scatter_add_ gather",
    "sums, products, functions": "mul mul_ add add_ sub sub_ div neg pow rsqrt silu silu_backward sum mean",
    "moved about": "cat copy_ index_select index_add_ fill_ zero_ embedding embedding_dense_backward",
}


def shares(step: Step) -> dict[str, float]:
    """What part of a step's CPU time goes into each kind of operation; python is in the rest."""
    step.model.zero_grad()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        begin = time.process_time()
        step.run()
        total = time.process_time() - begin
    found = dict.fromkeys(KINDS, 0.0)
    for event in profile.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, names in KINDS.items() if name in names.split()), None)
        if kind is not None:
            found[kind] += event.self_cpu_time_total / 1e6 / total
    return {**found, "the rest": max(0.0, 1 - sum(found.values()))}


def measure(name: str, row: Row, repetitions: int) -> tuple[list[str], str]:
    """The lines of a row's table, and its line of the table of shares."""
    with tempfile.TemporaryDirectory() as scratch:
        steps = {title: make_step(title, row, Path(scratch, str(number))) for number, title in enumerate(TRAINERS)}
        check_same(steps, row)
        times: dict[str, list[float]] = {title: [] for title in steps}
        for _ in range(repetitions):
            for title, step in steps.items():
                step.model.zero_grad()
                begin = time.process_time()
                step.run()
                times[title].append(time.process_time() - begin)
        products = Products()
        with products:
            steps[ALIGN_KNOWN].run()
        floor = products.seconds()
        parts = shares(steps[ALIGN_KNOWN])
    memory = {title: peak_memory(name, title) for title in TRAINERS}
    lines = []
    for title, seconds in times.items():
        ratios = [times_as_fast(times[other], seconds) for other in (TRL, TRL_KNOWN)]
        own = f"{statistics.median(seconds) / floor:.2f}" if title == ALIGN_KNOWN else "–"
        lines.append(
            f"| {row.title} | {title} | {statistics.median(seconds):.2f} | {ratios[0]} | {ratios[1]} | {own} | "
            f"{memory[title]:.2f} | {memory[title] / memory[TRL]:.2f} |"
        )
    return lines, f"| {row.title} | " + " | ".join(f"{part:.0%}" for part in parts.values()) + " |"


def check_same(steps: dict[str, Step], row: Row) -> None:
    """Whether losses and gradients are TRL's. A KL is more than TRL has; adapters are drawn anew by each trainer."""
    found = {}
    for title, step in steps.items():
        if title != ALIGN_KL:
            step.model.zero_grad()
            loss = step.run()
            found[title] = loss, [one.grad for one in step.model.parameters() if one.grad is not None]
    loss, gradients = found[TRL]
    for title, (other, others) in found.items():
        assert abs(other - loss) < 1e-4, (title, other, loss)
        if not row.lora:
            for ours, theirs in zip(others, gradients, strict=True):
                assert (ours - theirs).norm() < 1e-3 * theirs.norm(), title


def times_as_fast(others: list[float], own: list[float]) -> str:
    """As the others, over repetitions."""
    return spread([other / one for other, one in zip(others, own, strict=True)])


def peak_memory(name: str, title: str) -> float:
    """GiB that a process of its own has at most in two steps."""
    found = subprocess.run(
        [sys.executable, __file__, "--rows", name, "--alone", title], check=True, capture_output=True, text=True
    )
    return float(json.loads(found.stdout.splitlines()[-1]))


def run_alone(name: str, title: str) -> float:
    """Two steps of one trainer, and the peak memory of this process in GiB."""
    with tempfile.TemporaryDirectory() as scratch:
        step = make_step(title, ROWS[name], Path(scratch))
        for _ in range(2):
            step.model.zero_grad()
            step.run()
    # Not getrusage's, which is no less than that of the process which started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def main() -> None:
    """Measure, and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--alone", choices=TRAINERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    disable_progress_bars()
    warnings.simplefilter("ignore")
    if options.alone:
        sys.stdout.write(json.dumps(run_alone(options.rows[0], options.alone)) + "\n")
        return
    sys.stdout.write(
        f"`python benchmarks/train_step.py --repetitions {options.repetitions}`: CPU, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}; medians, [least, most] of the ratios within a repetition.\n\n"
        "| row | trainer | CPU seconds | times as fast as TRL | and with its reference known "
        "| times its matrix products | peak GiB | of TRL's |\n|" + "---|" * 8 + "\n"
    )
    shared = []
    for name in options.rows:
        lines, line = measure(name, ROWS[name], options.repetitions)
        shared.append(line)
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    headings = ["row", *KINDS, "the rest"]
    sys.stdout.write("\nWhere the CPU time of a step goes, the reference known:\n\n| " + " | ".join(headings) + " |\n|")
    sys.stdout.write("---|" * len(headings) + "\n" + "\n".join(shared) + "\n")


if __name__ == "__main__":
    main()
