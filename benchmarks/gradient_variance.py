"""How noisy the bilevel gradient is, with and without a baseline, with drawn and exact policy labels, with K responses.

The policy is the playground's after a short warm start; the reference is that policy too, moved a little by noise on
its weights, so that log-ratios are not all zero. For every setting many batches of fresh responses are drawn; the
variance of the batch gradient (trace of its covariance) is reported relative to the first row's. Some minutes.

    python benchmarks/gradient_variance.py --policy CHECKPOINT > benchmarks/results/gradient_variance.md
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

BETA, NUM_PROMPTS = 0.1, 32


class Setting(NamedTuple):
    """One row: source, pairs of a prompt's K responses, baseline, how policy labels enter, K."""

    source: str
    pairs: str
    baseline: str
    labels: str
    num_generations: int


SETTINGS = [
    *(Setting("dpr", "the two", baseline, "reward", 2) for baseline in ("none", "batch")),
    *(Setting("dpr", "best, worst", baseline, "reward", number) for number in (4, 8) for baseline in ("none", "batch")),
    *(
        Setting("dpr", "all", baseline, "reward", number)
        for number in (3, 4, 8)
        for baseline in ("none", "batch", "prompt")
    ),
    *(
        Setting("dpp", "the two", baseline, labels, 2)
        for labels in ("drawn", "exact")
        for baseline in ("none", "batch")
    ),
    *(
        Setting("dpp", "all", baseline, "exact", number)
        for number in (4, 8)
        for baseline in ("none", "batch", "prompt")
    ),
    *(Setting("ddp", "the two", "–", labels, 2) for labels in ("drawn", "exact")),
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
    shape = (NUM_PROMPTS, setting.num_generations)
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
    by_reward = setting.source == "dpr"
    prompts, first, second, members = pairs_of(setting, scores)
    margins = ratios[prompts, first] - ratios[prompts, second]
    logits = BETA * margins
    labels = torch.ones(len(prompts))
    if not by_reward:
        labels = policy_labels(logits)
        labels = torch.bernoulli(labels, generator=generator) if setting.labels == "drawn" else labels
    forward, backward = (preference_loss(sign * margins, "sigmoid", BETA) for sign in (1, -1))
    losses = expected_preference_loss(forward, backward, labels)
    value = torch.zeros(len(prompts))
    if setting.source != "ddp":
        value = value + response_terms(setting, losses, logps, prompts, members)
    if not by_reward:
        value = value + label_term(forward, backward, labels, logits)
    return value


def pairs_of(setting: Setting, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of every pair: its prompt, the chosen and the rejected response, and all responses that carry the term."""
    number, prompts = setting.num_generations, torch.arange(NUM_PROMPTS)
    if setting.pairs == "best, worst":
        return prompts, scores.argmax(1), scores.argmin(1), torch.arange(number).expand(NUM_PROMPTS, number)
    one, two = torch.combinations(torch.arange(number)).T.repeat(1, NUM_PROMPTS)
    prompts = prompts.repeat_interleave(len(one) // NUM_PROMPTS)
    if setting.source == "dpr":
        swapped = scores[prompts, one] < scores[prompts, two]
        one, two = torch.where(swapped, two, one), torch.where(swapped, one, two)
    return prompts, one, two, torch.stack([one, two], 1)


def response_terms(
    setting: Setting, losses: torch.Tensor, logps: torch.Tensor, prompts: torch.Tensor, members: torch.Tensor
) -> torch.Tensor:
    """The response term of every pair; `batch` leaves the whole prompt out, `prompt` looks at its other pairs first."""
    response_ids = prompts.unsqueeze(1) * setting.num_generations + members
    asked = response_ids if setting.baseline == "prompt" else torch.full_like(response_ids, -1)
    contained = response_ids if setting.baseline == "prompt" else asked
    pair_of = torch.arange(len(prompts)).repeat_interleave(members.shape[1])
    baselines = torch.zeros(len(pair_of))
    if setting.baseline != "none":
        baselines = leave_one_out_baseline(
            losses,
            prompts,
            contained,
            prompts[pair_of],
            asked.flatten(),
            preference_loss(torch.zeros(1), "sigmoid", BETA).item(),
        )
    found = response_term(losses[pair_of], baselines, logps[prompts[pair_of], members.flatten()])
    return torch.zeros(len(prompts)).index_add(0, pair_of, found)


def sample(policy: Policy, num_generations: int, number: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Fresh prompts of the playground, and fresh responses to each."""
    rows = world.prompts(0)[NUM_PROMPTS * number : NUM_PROMPTS * (number + 1)]
    prompts = [policy.tokenizer(row["prompt"])["input_ids"] for row in rows]
    requests = [
        Request(prompt, derive_seed(0, number, index, sample))
        for index, prompt in enumerate(prompts)
        for sample in range(num_generations)
    ]
    batches = TransformersEngine(256).generate(policy, requests, SamplingSettings(1.0, 0, 1.0, 24))
    samples = dict(sample for batch in batches for sample in batch)
    ordered = [samples[index].token_ids for index in range(len(requests))]
    return prompts, [ordered[start : start + num_generations] for start in range(0, len(ordered), num_generations)]


def report(rows: list[tuple[Setting, float, float]], num_batches: int) -> None:
    """Print the table."""
    sys.stdout.write(
        f"`python benchmarks/gradient_variance.py --policy CHECKPOINT --batches {num_batches}`: {num_batches} batches "
        f"of {NUM_PROMPTS} prompts, DPO, β {BETA}; "
        "gradient of the bilevel terms alone.\n\n"
        "| source | K | pairs | baseline | labels | variance (first row = 1) | norm of the mean gradient |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    for setting, variance, norm in rows:
        cells = [setting.source, str(setting.num_generations), setting.pairs, setting.baseline, setting.labels]
        sys.stdout.write(f"| {' | '.join(cells)} | {variance / rows[0][1]:.4g} | {norm:.3g} |\n")


if __name__ == "__main__":
    main()
