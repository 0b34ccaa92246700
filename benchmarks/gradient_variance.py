"""How noisy the bilevel gradient is, with and without a baseline, with drawn and exact policy labels, with K responses.

The policy is the playground's after a short warm start; the reference is that policy too, moved a little by noise on
its weights, so that log-ratios are not all zero. For every setting many batches of fresh responses are drawn; the
variance of the batch gradient (trace of its covariance) is reported relative to the first row's. Some minutes.

    python benchmarks/gradient_variance.py > benchmarks/results/gradient_variance.md
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch

from align_cli.engines.base import Request, SamplingSettings
from align_cli.engines.in_process import TransformersEngine
from align_cli.methods.bilevel import label_term, leave_one_out_baseline, policy_labels, response_term
from align_cli.methods.preference import expected_preference_loss, preference_loss
from align_cli.models.load import Policy, load_policy
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.playground import hidden_reward, world
from align_cli.seeds import derive_seed

BETA, NUM_PAIRS = 0.1, 32


class Setting(NamedTuple):
    """One row: source, baseline, how policy labels enter, responses a prompt."""

    source: str
    baseline: str
    labels: str
    num_generations: int


SETTINGS = [
    *(Setting("dpr", baseline, "reward", 2) for baseline in ("none", "batch")),
    *(Setting("dpr, best and worst", "batch", "reward", number) for number in (4, 8)),
    *(Setting("dpr, best and worst", "none", "reward", number) for number in (4, 8)),
    *(Setting("dpp", baseline, labels, 2) for labels in ("drawn", "exact") for baseline in ("none", "batch")),
    *(Setting("ddp", "–", labels, 2) for labels in ("drawn", "exact")),
]


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", required=True, help="a checkpoint, such as runs/quickstart/rounds/000/checkpoint")
    parser.add_argument("--batches", type=int, default=60)
    arguments = parser.parse_args()
    policy, reference = load_policy(arguments.policy), load_policy(arguments.policy)
    torch.manual_seed(0)
    for parameter in reference.model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    rows = []
    for setting in SETTINGS:
        gradients = torch.stack(
            [batch_gradient(policy, reference, setting, number) for number in range(arguments.batches)]
        )
        rows.append((setting, gradients.var(0).sum().item(), gradients.mean(0).norm().item()))
    report(rows, arguments.batches)


def batch_gradient(policy: Policy, reference: Policy, setting: Setting, number: int) -> torch.Tensor:
    """The gradient of the bilevel terms alone, on one batch of fresh responses."""
    prompts, responses = sample(policy, setting.num_generations, number)
    tokens = pad_batch(
        [prompt for prompt, group in zip(prompts, responses, strict=True) for _ in group],
        [response for group in responses for response in group],
        policy.tokenizer.pad_token_id,
    )
    shape = (NUM_PAIRS, setting.num_generations)
    logps = response_logps(policy.model, tokens).view(shape)
    with torch.no_grad():
        ratios = logps - response_logps(reference.model, tokens).view(shape)
    ratios = ratios.detach() + (logps - logps.detach())
    texts = [[policy.tokenizer.decode(response, skip_special_tokens=True) for response in group] for group in responses]
    questions = [policy.tokenizer.decode(prompt) for prompt in prompts]
    scores = torch.tensor(
        [hidden_reward([ask] * len(group), group) for ask, group in zip(questions, texts, strict=True)]
    )
    surrogate = terms(setting, logps, ratios, scores, torch.Generator().manual_seed(number)).mean()
    policy.model.zero_grad()
    surrogate.backward()
    return torch.cat([parameter.grad.flatten().clone() for parameter in policy.model.parameters()])


def terms(
    setting: Setting, logps: torch.Tensor, ratios: torch.Tensor, scores: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """The surrogate of every pair of the batch, without the plain loss."""
    rows = torch.arange(NUM_PAIRS)
    first, second = (
        (scores.argmax(1), scores.argmin(1)) if setting.source.startswith("dpr") else (rows * 0, rows * 0 + 1)
    )
    margins = ratios[rows, first] - ratios[rows, second]
    logits = BETA * margins
    labels = torch.ones(NUM_PAIRS)
    if not setting.source.startswith("dpr"):
        labels = policy_labels(logits)
        labels = torch.bernoulli(labels, generator=generator) if setting.labels == "drawn" else labels
    losses = expected_preference_loss(margins, labels, "sigmoid", BETA)
    value = torch.zeros(NUM_PAIRS)
    if setting.source != "ddp":
        baselines = torch.zeros(NUM_PAIRS)
        if setting.baseline == "batch":
            baselines = leave_one_out_baseline(losses, rows, rows, 0.0)
        value = value + response_term(losses, baselines, logps.sum(1))
    if not setting.source.startswith("dpr"):
        forward, backward = (preference_loss(sign * margins, "sigmoid", BETA) for sign in (1, -1))
        value = value + label_term(forward, backward, labels, logits)
    return value


def sample(policy: Policy, num_generations: int, number: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Fresh prompts of the playground, and fresh responses to each."""
    rows = world.prompts(0)[NUM_PAIRS * number : NUM_PAIRS * (number + 1)]
    prompts = [policy.tokenizer(row["prompt"])["input_ids"] for row in rows]
    requests = [
        Request(prompt, derive_seed(0, number, index, sample))
        for index, prompt in enumerate(prompts)
        for sample in range(num_generations)
    ]
    samples = dict(TransformersEngine(256).generate(policy, requests, SamplingSettings(1.0, 0, 1.0, 24)))
    ordered = [samples[index].token_ids for index in range(len(requests))]
    return prompts, [ordered[start : start + num_generations] for start in range(0, len(ordered), num_generations)]


def report(rows: list[tuple[Setting, float, float]], num_batches: int) -> None:
    """Print the table."""
    sys.stdout.write(
        f"`python benchmarks/gradient_variance.py`: {num_batches} batches of {NUM_PAIRS} prompts, DPO, β {BETA}; "
        "gradient of the bilevel terms alone.\n\n"
        "| source | baseline | labels | K | variance (first row = 1) | norm of the mean gradient |\n"
        "|---|---|---|---|---|---|\n"
    )
    for setting, variance, norm in rows:
        cells = [setting.source, setting.baseline, setting.labels, str(setting.num_generations)]
        sys.stdout.write(f"| {' | '.join(cells)} | {variance / rows[0][1]:.4g} | {norm:.3g} |\n")


if __name__ == "__main__":
    main()
