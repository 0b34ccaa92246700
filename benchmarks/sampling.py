"""What the engine's decoding loop costs beside transformers' `generate`, drawing several responses to each prompt.

Four ways to the same number of responses: the engine; the same draws through `generate`, as models are sampled whose
cache is not rows; plain `generate` with `num_return_sequences`, its prompts in the order of the file; and transformers'
continuous batching, `generate_batch`, which has one seed a call and none a request, and is left out of the large row,
where one repetition takes it most of an hour. Weights are random, and one id in thirty ends a response, so most end
before the longest. Each repetition runs every way once, in turn, in one process; ratios are taken within a repetition,
and of tokens drawn a second; their median, the least and the most are shown. CPU seconds of this process are counted.
About half an hour on an idle core.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py > benchmarks/results/sampling.md
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from spread import spread
from transformers import GenerationConfig

from align_cli.engines.base import Request, SamplingSettings
from align_cli.engines.in_process import TransformersEngine
from align_cli.engines.through_generate import generate
from align_cli.models.load import Policy, load_policy
from align_cli.playground.model import make_model_from_scratch

RESPONSES, VOCABULARY, ENDING = 4, 8192, 30
SETTINGS = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=64)


class Row(NamedTuple):
    """How many prompts of which lengths, how many sequences at a time, and whether continuous batching is tried."""

    prompts: int
    lengths: tuple[int, int]
    batch: int
    is_continuous: bool

    @property
    def title(self) -> str:
        """As the table has it."""
        return (
            f"{self.prompts} prompts of {self.lengths[0]} to {self.lengths[1]} tokens, {self.batch} sequences a batch"
        )


ROWS = (Row(32, (8, 96), 32, is_continuous=True), Row(512, (8, 256), 128, is_continuous=False))


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        policy = make_policy(Path(scratch))
    sys.stdout.write(
        f"`python benchmarks/sampling.py --repetitions {repetitions}`: CPU, {torch.get_num_threads()} threads, "
        f"{RESPONSES} responses a prompt of up to {SETTINGS.max_new_tokens} tokens, 4 layers of 256, vocabulary "
        f"{VOCABULARY}; medians, [least, most] of the ratios within a repetition.\n\n"
        "| row | way | tokens drawn | CPU seconds | the engine is so many times as fast |\n|---|---|---|---|---|\n"
    )
    for row in ROWS:
        report(row, *measure(policy, row, repetitions))


def measure(policy: Policy, row: Row, repetitions: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """CPU seconds of every repetition, and tokens drawn in each, by way."""
    rng = random.Random(0)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(*row.lengths))] for _ in range(row.prompts)]
    ways: dict[str, Callable[[], int]] = {
        "the engine": lambda: through_engine(policy, prompts, row.batch),
        "the same draws through `generate`": lambda: drawn_through_generate(policy, prompts, row.batch),
        "plain `generate`": lambda: plain_generate(policy, prompts, row.batch),
    }
    if row.is_continuous:
        ways["`generate_batch`"] = lambda: in_continuous_batches(policy, prompts)
    times: dict[str, list[float]] = {name: [] for name in ways}
    tokens = {}
    for repetition in range(repetitions + 1):
        for name, way in ways.items():
            begin = time.process_time()
            tokens[name] = way()
            if repetition:
                times[name].append(time.process_time() - begin)
    return times, tokens


def make_policy(scratch: Path) -> Policy:
    """A model of about 7M parameters."""
    words = " ".join(f"word{number}" for number in range(2 * VOCABULARY))
    shape = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "max_position_embeddings": 256}
    make_model_from_scratch(scratch, [words], seed=0, architecture="llama", vocab_size=VOCABULARY, **shape)
    policy = load_policy(scratch)
    policy.model.generation_config.eos_token_id = list(range(0, VOCABULARY, ENDING))
    return policy


def requests_for(prompts: list[list[int]]) -> list[Request]:
    """All that are asked for, a prompt's after each other."""
    return [Request(prompt, 1000 * row + number) for row, prompt in enumerate(prompts) for number in range(RESPONSES)]


def through_engine(policy: Policy, prompts: list[list[int]], batch: int) -> int:
    """Tokens drawn by the engine."""
    batches = TransformersEngine(batch).generate(policy, requests_for(prompts), SETTINGS)
    return sum(len(sample.token_ids) for samples in batches for _, sample in samples)


def drawn_through_generate(policy: Policy, prompts: list[list[int]], batch: int) -> int:
    """Tokens drawn through `generate`, longest prompts first."""
    requests = sorted(requests_for(prompts), key=lambda request: -len(request.prompt_ids))
    batches = [requests[start : start + batch] for start in range(0, len(requests), batch)]
    return sum(len(sample.token_ids) for together in batches for sample in generate(policy, together, SETTINGS))


def plain_generate(policy: Policy, prompts: list[list[int]], batch: int) -> int:
    """Tokens drawn by `generate` with its own sampling."""
    torch.manual_seed(0)
    num_tokens, per_batch = 0, batch // RESPONSES
    for start in range(0, len(prompts), per_batch):
        inputs = policy.tokenizer.pad(
            {"input_ids": prompts[start : start + per_batch]}, padding_side="left", return_tensors="pt"
        )
        rows = policy.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=True,
            top_k=0,
            num_return_sequences=RESPONSES,
            max_new_tokens=SETTINGS.max_new_tokens,
            pad_token_id=policy.tokenizer.pad_token_id,
        )
        new_BN = rows[:, inputs["input_ids"].shape[1] :]
        has_ended_BN = torch.isin(new_BN, torch.tensor(policy.eos_token_ids)).cumsum(-1)
        num_tokens += int((has_ended_BN.roll(1, -1)[:, 1:] == 0).sum()) + len(new_BN)
    return num_tokens


def in_continuous_batches(policy: Policy, prompts: list[list[int]]) -> int:
    """Tokens drawn by transformers' continuous batching, which makes its batches by itself."""
    torch.manual_seed(0)
    settings = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=SETTINGS.max_new_tokens,
        eos_token_id=policy.eos_token_ids,
        pad_token_id=policy.tokenizer.pad_token_id,
    )
    inputs = [prompt for prompt in prompts for _ in range(RESPONSES)]
    found = policy.model.generate_batch(inputs=inputs, generation_config=settings, progress_bar=False)
    return sum(len(one.generated_tokens) for one in found.values())


def report(row: Row, times: dict[str, list[float]], tokens: dict[str, int]) -> None:
    """Print the table's lines of a row."""
    own, *_ = times.values()
    num_own, *_ = tokens.values()
    for name, seconds in times.items():
        # The last two ways draw others, and not as many.
        ratios = [num_own / one * other / tokens[name] for one, other in zip(own, seconds, strict=True)]
        line = f"| {row.title} | {name} | {tokens[name]} | {statistics.median(seconds):.2f} | {spread(ratios)} |"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
