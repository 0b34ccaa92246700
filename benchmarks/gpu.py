"""Train step and generation of Qwen2.5-0.5B's shape in bfloat16 on a GPU, beside TRL's DPOTrainer in the same process.

    python benchmarks/gpu.py > benchmarks/results/gpu.md

Both trainers train the same random weights on the same pairs, with float32 weights under bfloat16 autocast, AdamW,
no gradient checkpointing, and are timed over whole steps of their own `train`, device work included; the losses of
their first step stand beside the times. With LoRA the base is bfloat16, adapters of rank 16 are on all linear layers,
and reference and policy share the base. Weights and tokens are random, which changes no time. Takes about five minutes
on an H100 or H200. Without a GPU it says so, and runs the same code on a small model.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

from align_cli.engines.base import Request, SamplingSettings
from align_cli.engines.in_process import TransformersEngine
from align_cli.models.adapters import AdaptedModel
from align_cli.models.load import Policy
from align_cli.models.lora import lora_config
from align_cli.playground.model import make_word_tokenizer
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.policy import PolicySection
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.objective import Objective, SourceTerms
from align_cli.training.trainer import PreferenceTrainer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = {  # Qwen2.5-0.5B
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
SMALL = SHAPE | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"vocab_size": 2000}
FIRST_WORD, NUM_WORDS = 3, 1000  # behind the tokenizer's own three tokens
ROWS = ((128, 128, 16), (512, 128, 16), (192, 512, 8))
"""Tokens of a prompt, tokens of a response, pairs a step."""
SMALL_ROWS = ((12, 8, 4),)
OBJECTIVES = {
    "align, plain loss": Objective((SourceTerms("offline"),)),
    "align, both bilevel terms": Objective((SourceTerms("dpp", 0.2, policy_responses=True, policy_labels=True),)),
    "align, both terms and KL": Objective(
        (SourceTerms("dpp", 0.2, policy_responses=True, policy_labels=True),), kl_coefficient=0.02
    ),
}
LORA = LoraSection(rank=16, alpha=32)
START = TrainingState(round=0, global_step=0, parent=None)


@dataclass
class Steps:
    """What a trainer's steps took."""

    seconds: list[float] = field(default_factory=list)
    loss: float = float("nan")
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        """Of a step, without the first three."""
        return statistics.median(self.seconds[3:])


class Clock(TrainerCallback):
    """Writes down when each optimizer step begins and ends."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Nothing of an earlier step is still at work on the device."""
        synchronize()
        self.begin = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The device is done too."""
        synchronize()
        self.steps.seconds.append(time.perf_counter() - self.begin)


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@contextmanager
def device_memory(steps: Steps) -> Iterator[None]:
    """The peak of what is allocated within."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield
    if DEVICE == "cuda":
        steps.peak_bytes = torch.cuda.max_memory_allocated()


def make_model(shape: dict[str, Any], seed: int) -> PreTrainedModel:
    """Random weights in float32, on the device."""
    torch.manual_seed(seed)
    config = Qwen2Config(**shape, max_position_embeddings=4096, eos_token_id=1, pad_token_id=0)
    with torch.device(DEVICE):
        return Qwen2ForCausalLM(config)


def make_pairs(prompt: int, response: int, number: int) -> list[TrainingPair]:
    """Pairs of random tokens; every response ends with the end-of-sequence token."""
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(FIRST_WORD, FIRST_WORD + NUM_WORDS) for _ in range(count)]

    def answer() -> list[int]:
        return [*tokens(response - 1), 1]

    return [TrainingPair(tokens(prompt), answer(), answer(), 1.0, 0, index, index) for index in range(number)]


def text_rows(pairs: list[TrainingPair]) -> Dataset:
    """The same pairs as TRL wants them: text, to which it adds the end-of-sequence token."""

    def text(ids: list[int]) -> str:
        return "".join(f" w{number - FIRST_WORD}" for number in ids)

    rows = [
        {
            "prompt": text(pair.prompt_ids),
            "chosen": text(pair.chosen_ids[:-1]),
            "rejected": text(pair.rejected_ids[:-1]),
        }
        for pair in pairs
    ]
    return Dataset.from_list(rows)


def arguments(folder: Path, pairs: int, num_steps: int, **more: Any) -> DPOConfig:
    """The same arguments for both."""
    return DPOConfig(
        output_dir=str(folder),
        bf16=True,
        use_cpu=DEVICE == "cpu",
        gradient_checkpointing=False,
        max_length=None,
        max_steps=num_steps,
        per_device_train_batch_size=pairs,
        learning_rate=1e-6,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **more,
    )


def steps_of_trl(shape: dict[str, Any], pairs: list[TrainingPair], folder: Path, num_steps: int, **more: Any) -> Steps:
    """TRL's own trainer."""
    steps = Steps()
    with device_memory(steps):
        trainer = DPOTrainer(
            model=make_model(shape, 0),
            ref_model=make_model(shape, 1),
            args=arguments(folder, len(pairs), num_steps, **more),
            processing_class=make_word_tokenizer([f" w{number}" for number in range(NUM_WORDS)]),
            train_dataset=text_rows(pairs),
            callbacks=[Clock(steps)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    steps.loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return steps


def steps_of_align(
    shape: dict[str, Any], pairs: list[TrainingPair], folder: Path, num_steps: int, objective: Objective
) -> Steps:
    """The trainer of a round."""
    steps = Steps()
    with device_memory(steps):
        policy = Policy(make_model(shape, 0), make_word_tokenizer([f" w{number}" for number in range(NUM_WORDS)]), "")
        args = arguments(folder, len(pairs), num_steps, remove_unused_columns=False, ignore_data_skip=True)
        trainer = PreferenceTrainer(policy, make_model(shape, 1), objective, args)
        trainer.add_callback(Clock(steps))
        trainer.train_round([pairs] * num_steps, START)
    steps.loss = trainer.step_records[0]["loss"]
    return steps


def lora_steps_of_trl(base: Path, pairs: list[TrainingPair], folder: Path, num_steps: int) -> Steps:
    """TRL's own trainer, with adapters that it makes."""
    steps = Steps()
    with device_memory(steps):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).to(DEVICE)
        trainer = DPOTrainer(
            model=model,
            args=arguments(folder, len(pairs), num_steps),
            processing_class=make_word_tokenizer([f" w{number}" for number in range(NUM_WORDS)]),
            train_dataset=text_rows(pairs),
            callbacks=[Clock(steps)],
            peft_config=lora_config(LORA),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    steps.loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return steps


def lora_steps_of_align(
    base: Path, pairs: list[TrainingPair], folder: Path, num_steps: int, objective: Objective
) -> Steps:
    """The trainer of a round, with policy and reference on one base."""
    steps = Steps()
    with device_memory(steps):
        adapted = AdaptedModel(PolicySection(model_name_or_path=str(base), dtype="bfloat16", lora=LORA), 0)
        policy, reference = adapted.policy(None), adapted.frozen(None)
        args = arguments(folder, len(pairs), num_steps, remove_unused_columns=False, ignore_data_skip=True)
        trainer = PreferenceTrainer(policy, reference.model, objective, args)
        trainer.add_callback(Clock(steps))
        trainer.train_round([pairs] * num_steps, START)
    steps.loss = trainer.step_records[0]["loss"]
    return steps


def step_flops(shape: dict[str, Any], pairs: list[TrainingPair], passes: int) -> float:
    """Operations of the matrix products that cannot be avoided where each response has its prompt with it.

    Layers and causal attention at every position, the head at the responses' positions; as many passes as a step has:
    the policy's forward and the backward's two products, one where weights are frozen, and the reference's forward.
    """
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    of_keys = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    in_a_layer = 2 * width * width + 2 * width * of_keys + 3 * width * inner
    total = 0.0
    for pair in pairs:
        for answer in (pair.chosen_ids, pair.rejected_ids):
            length = len(pair.prompt_ids) + len(answer)
            layers = shape["num_hidden_layers"] * (2 * in_a_layer * length + 2 * width * length * length)
            total += layers + 2 * width * shape["vocab_size"] * len(answer)
    return passes * total


def matmul_rate() -> float:
    """Operations a second of large bfloat16 matrix products on random data: the median of twenty."""
    size = 8192 if DEVICE == "cuda" else 512
    left, right = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(23):
        synchronize()
        begin = time.perf_counter()
        left @ right
        synchronize()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(times[3:])


def generation(shape: dict[str, Any], prompts: int, prompt: int, response: int, batch: int) -> dict[str, float]:
    """Tokens a second of four responses to each prompt, by align's engine and by `generate`."""
    policy = Policy(make_model(shape, 0).bfloat16().eval(), make_word_tokenizer([" w0"]), "")
    ids = [pair.prompt_ids for pair in make_pairs(prompt, 2, prompts)]
    settings = SamplingSettings(1.0, 0, 1.0, response)
    requests = [Request(each, 4 * number + answer) for number, each in enumerate(ids) for answer in range(4)]

    def of_align() -> int:
        engine = TransformersEngine(batch)
        return sum(len(sample.token_ids) for part in engine.generate(policy, requests, settings) for _, sample in part)

    def of_transformers() -> int:
        count = 0
        for start in range(0, prompts, batch // 4):
            inputs = torch.tensor(ids[start : start + batch // 4], device=DEVICE)
            found = policy.model.generate(
                inputs, do_sample=True, top_k=0, num_return_sequences=4, max_new_tokens=response
            )
            count += int((found[:, prompt:] != 0).sum())
        return count

    return {"align": rate(of_align), "transformers `generate`": rate(of_transformers)}


def rate(work: Callable[[], int]) -> float:
    """Tokens a second, the better of two."""
    rates = []
    for _ in range(2):
        synchronize()
        begin = time.perf_counter()
        with torch.no_grad():
            tokens = work()
        synchronize()
        rates.append(tokens / (time.perf_counter() - begin))
    return max(rates)


def main() -> None:
    """Measure, and print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=13)
    num_steps = parser.parse_args().steps
    disable_progress_bars()
    warnings.simplefilter("ignore", FutureWarning)  # `gradient_checkpointing` is the name that all versions know
    on_gpu = DEVICE == "cuda"
    shape, rows = (SHAPE, ROWS) if on_gpu else (SMALL, SMALL_ROWS)
    name = torch.cuda.get_device_name() if on_gpu else "no GPU here: a small model on the CPU, for a try of the code"
    peak = matmul_rate()
    write(
        f"`python benchmarks/gpu.py --steps {num_steps}`: {name}, torch {torch.__version__}, bfloat16 products at "
        f"{peak / 1e12:.4g} TFLOP/s.\nShape {shape['num_hidden_layers']} × {shape['hidden_size']}, vocabulary "
        f"{shape['vocab_size']}; medians of {num_steps - 3} steps, optimizer included.\n"
    )
    write("| prompt/response, pairs | trainer | ms a step | times TRL's rate | tokens/s | share of rate | GiB | loss |")
    write("|---|---|---|---|---|---|---|---|")
    for prompt, response, number in rows:
        pairs = make_pairs(prompt, response, number)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            found = {
                "TRL": steps_of_trl(shape, pairs, folder, num_steps),
                "TRL, reference precomputed": steps_of_trl(
                    shape, pairs, folder, num_steps, precompute_ref_log_probs=True
                ),
            }
            for title, objective in OBJECTIVES.items():
                found[title] = steps_of_align(shape, pairs, folder, num_steps, objective)
            base = folder / "base"
            make_model(shape, 0).bfloat16().save_pretrained(base)
            make_word_tokenizer([f" w{number}" for number in range(NUM_WORDS)]).save_pretrained(base)
            found["TRL, LoRA"] = lora_steps_of_trl(base, pairs, folder, num_steps)
            for title, objective in OBJECTIVES.items():
                found[f"{title}, LoRA"] = lora_steps_of_align(base, pairs, folder, num_steps, objective)
        for title, steps in found.items():
            of_trl = found["TRL, LoRA" if "LoRA" in title else "TRL"]
            passes = 3 if "LoRA" in title else 4
            tokens = sum(2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs)
            write(
                f"| {prompt}/{response}, {number} | {title} | {1000 * steps.median:.1f} | "
                f"{of_trl.median / steps.median:.2f} | {tokens / steps.median:,.0f} | "
                f"{step_flops(shape, pairs, passes) / steps.median / peak:.2f} | {steps.peak_bytes / 2**30:.1f} | "
                f"{steps.loss:.4f} |"
            )
    prompts, prompt, response, batch = (256, 512, 128, 256) if on_gpu else (4, 12, 8, 8)
    write(f"\nGeneration, bfloat16 weights: {prompts} prompts of {prompt} tokens, four responses of {response} each,")
    write(f"{batch} sequences at once.\n\n| engine | tokens/s |\n|---|---|")
    for title, tokens_per_second in generation(shape, prompts, prompt, response, batch).items():
        write(f"| {title} | {tokens_per_second:,.0f} |")


def write(line: str) -> None:
    """A line of the page, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
