"""What the bilevel terms and the KL add to an optimizer step, on the same pairs in one forward pass and in eight.

Each repetition runs every variant once, in turn, in one process, on one batch; ratios are taken within a repetition and
their median is reported, so that a noisy machine shifts all variants alike. CPU seconds of this process are counted,
which others on the machine do not lengthen as they do wall-clock time. The reference scores the pairs in every step,
as if each were used once. About four minutes on an idle core.

    OMP_NUM_THREADS=1 python benchmarks/step_cost.py > benchmarks/results/step_cost.md
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from trl import DPOConfig

from align_cli.models.load import load_policy
from align_cli.playground.model import make_model_from_scratch
from align_cli.training.batches import TrainingPair
from align_cli.training.objective import Objective, SourceTerms
from align_cli.training.trainer import PreferenceTrainer

BATCH, PROMPT, RESPONSE, VOCABULARY = 16, 32, 64, 4096
PASSES = (1, 8)

DPP = SourceTerms("dpp", 0.2, policy_responses=True, policy_labels=True)
VARIANTS = {
    "plain loss (coefficients 0)": Objective((SourceTerms("dpr", 0.0, policy_responses=True),)),
    "response term (dpr)": Objective((SourceTerms("dpr", 0.3, policy_responses=True),)),
    "label term (ddp)": Objective((SourceTerms("ddp", 0.2, policy_labels=True),)),
    "both terms (dpp)": Objective((DPP,)),
    "both terms and KL": Objective((DPP,), kl_coefficient=0.02),
}


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9)
    repetitions = parser.parse_args().repetitions
    with tempfile.TemporaryDirectory() as scratch:
        trainer, pairs = prepare(Path(scratch))
        times: dict[tuple[int, str], list[float]] = {(passes, name): [] for passes in PASSES for name in VARIANTS}
        for repetition in range(repetitions + 2):
            for passes, name in times:
                seconds = step_seconds(trainer, pairs, VARIANTS[name], passes)
                if repetition >= 2:
                    times[passes, name].append(seconds)
    report(times, repetitions)


def prepare(scratch: Path) -> tuple[PreferenceTrainer, list[TrainingPair]]:
    """A model of about 5M parameters, and one batch of random tokens that say how they were sampled."""
    words = " ".join(f"word{number}" for number in range(5000))
    shape = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "max_position_embeddings": 128}
    for seed, name in enumerate(("policy", "reference")):
        make_model_from_scratch(
            scratch / name, [words], seed=seed, architecture="llama", vocab_size=VOCABULARY, **shape
        )
    policy, reference = load_policy(scratch / "policy"), load_policy(scratch / "reference")
    args = DPOConfig(output_dir=str(scratch), bf16=False, gradient_checkpointing=False, report_to="none")
    trainer = PreferenceTrainer(policy, reference.model, None, args)
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(2, VOCABULARY // 2) for _ in range(count)]

    sampled = (-RESPONSE * 8.0, -RESPONSE * 8.0)
    return trainer, [
        TrainingPair(tokens(PROMPT), tokens(RESPONSE), tokens(RESPONSE), 1.0, 0, index, index, policy_logps=sampled)
        for index in range(BATCH)
    ]


def step_seconds(trainer: PreferenceTrainer, pairs: list[TrainingPair], objective: Objective, passes: int) -> float:
    """CPU seconds of forward, reference forward, loss and backward."""
    trainer.objective, trainer.pairs_per_pass = objective, BATCH // passes
    trainer.model.train()
    trainer.model.zero_grad()
    inputs = trainer.data_collator(pairs)
    begin = time.process_time()
    trainer.know([pairs])
    parts = trainer.passes(inputs)
    assert len(parts) == passes
    for part in parts:
        trainer.compute_loss(trainer.model, part).backward()
    return time.process_time() - begin


def report(times: dict[tuple[int, str], list[float]], repetitions: int) -> None:
    """Print the table."""
    sys.stdout.write(
        f"`python benchmarks/step_cost.py --repetitions {repetitions}`, CPU, {torch.get_num_threads()} threads, median "
        f"of paired repetitions, {BATCH} pairs of {PROMPT} + {RESPONSE} tokens, 4 layers of 256, vocabulary "
        f"{VOCABULARY}.\n\n"
        "| passes a step | step | CPU seconds | times the plain step |\n|---|---|---|---|\n"
    )
    for (passes, name), seconds in times.items():
        plain = times[passes, next(iter(VARIANTS))]
        ratio = statistics.median(one / other for one, other in zip(seconds, plain, strict=True))
        sys.stdout.write(f"| {passes} | {name} | {statistics.median(seconds):.3f} | {ratio:.3f} |\n")


if __name__ == "__main__":
    main()
