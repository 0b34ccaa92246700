"""What the engine's decoding loop costs beside transformers' `generate`, drawing several responses to each prompt.

Three ways to the same number of responses: the engine; the same draws through `generate`, as models are sampled whose
cache is not rows; and plain `generate` with `num_return_sequences`, its prompts in the order of the file. Weights are
random, and one id in thirty ends a response, so most end before the longest. Each repetition runs every way once, in
turn, in one process; ratios are taken within a repetition and their median is reported. CPU seconds of this process are
counted. About two minutes on an idle core.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py > benchmarks/results/sampling.md
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch

from align_cli.engines.base import Request, SamplingSettings
from align_cli.engines.in_process import TransformersEngine
from align_cli.engines.through_generate import generate
from align_cli.models.load import Policy, load_policy
from align_cli.playground.model import make_model_from_scratch

PROMPTS, RESPONSES, BATCH, LENGTHS, VOCABULARY, ENDING = 32, 4, 32, (8, 96), 8192, 30
SETTINGS = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=64)


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    with tempfile.TemporaryDirectory() as scratch:
        policy = make_policy(Path(scratch))
    rng = random.Random(0)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(*LENGTHS))] for _ in range(PROMPTS)]
    ways: dict[str, Callable[[], int]] = {
        "the engine": lambda: through_engine(policy, prompts),
        "the same draws through `generate`": lambda: drawn_through_generate(policy, prompts),
        "plain `generate`": lambda: plain_generate(policy, prompts),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    tokens = {}
    for repetition in range(repetitions + 1):
        for name, way in ways.items():
            begin = time.process_time()
            tokens[name] = way()
            if repetition:
                times[name].append(time.process_time() - begin)
    report(times, tokens)


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


def through_engine(policy: Policy, prompts: list[list[int]]) -> int:
    """Tokens drawn by the engine."""
    batches = TransformersEngine(BATCH).generate(policy, requests_for(prompts), SETTINGS)
    return sum(len(sample.token_ids) for batch in batches for _, sample in batch)


def drawn_through_generate(policy: Policy, prompts: list[list[int]]) -> int:
    """Tokens drawn through `generate`, longest prompts first."""
    requests = sorted(requests_for(prompts), key=lambda request: -len(request.prompt_ids))
    batches = [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]
    return sum(len(sample.token_ids) for batch in batches for sample in generate(policy, batch, SETTINGS))


def plain_generate(policy: Policy, prompts: list[list[int]]) -> int:
    """Tokens drawn by `generate` with its own sampling."""
    torch.manual_seed(0)
    num_tokens, per_batch = 0, BATCH // RESPONSES
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


def report(times: dict[str, list[float]], tokens: dict[str, int]) -> None:
    """Print the table."""
    first, (num_first, *_) = next(iter(times.values())), tokens.values()
    sys.stdout.write(
        f"`python benchmarks/sampling.py`, CPU, {torch.get_num_threads()} threads, median of {len(first)} paired "
        f"repetitions, {PROMPTS} prompts of {LENGTHS[0]} to {LENGTHS[1]} tokens, {RESPONSES} responses each of up to "
        f"{SETTINGS.max_new_tokens}, {BATCH} sequences a batch, 4 layers of 256, vocabulary {VOCABULARY}.\n\n"
        "| way | tokens drawn | CPU seconds | a token, times the engine's |\n|---|---|---|---|\n"
    )
    for name, seconds in times.items():
        ratio = statistics.median(one / other for one, other in zip(seconds, first, strict=True))
        ratio *= num_first / tokens[name]  # plain `generate` draws others, and not as many
        sys.stdout.write(f"| {name} | {tokens[name]} | {statistics.median(seconds):.2f} | {ratio:.2f} |\n")


if __name__ == "__main__":
    main()
