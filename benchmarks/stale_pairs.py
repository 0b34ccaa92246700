"""How far the update from stale pairs is from that of fresh ones: without weights, and with weights at several caps.

The quickstart's policy trains a round, half on offline pairs and half on its own, two a prompt, and then another. In
that one, some steps away from the policy that sampled its pairs, the gradient of other pairs of that older policy,
which nothing was trained on, is compared with the gradient of pairs of the policy as it is, to the same prompts:

- `KL`: of the older policy to the one in training, in nats a response: how far away it is;
- `error`: of the mean gradient, relative to the fresh one's (a bias, which no number of pairs averages away), from two
  independent halves and all seeds together, so that its own noise does not add to it;
- `variance`: of a batch's gradient, as a multiple of what fresh pairs have;
- `step`: root mean square error of one batch's gradient, bias and variance together, as a multiple of fresh pairs';
- `truncated`: share of pairs whose weight the cap cut.

A second table holds the steps and varies the prompts of a round: how often each pair is used, what the loss then is on
the round's pairs and on new ones of the same policy, and what the policy is worth. Three minutes of CPU a seed.

    OMP_NUM_THREADS=1 python benchmarks/stale_pairs.py --seeds 0 1 2 > benchmarks/results/stale_pairs.md
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from align_cli.engines.base import Request, SamplingSettings
from align_cli.engines.in_process import TransformersEngine
from align_cli.models.load import Policy, load_policy
from align_cli.playground import hidden_reward, world
from align_cli.recipe import load_recipe
from align_cli.seeds import derive_seed
from align_cli.stages.base import NoProgress
from align_cli.stages.inputs import Inputs
from align_cli.stages.pairing.offline import label_offline_pairs
from align_cli.stages.pools import OfflinePool
from align_cli.stages.sft import make_initial_policy
from align_cli.training.batches import Mixture, TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.collated import PairCollator
from align_cli.training.figures import Figures
from align_cli.training.objective import Objective, carriers, pairs_per_carrier, recipe_objective
from align_cli.training.pair_losses import pair_losses
from align_cli.training.pair_values import GlobalLosses, pair_values
from align_cli.training.trainer import PreferenceTrainer, make_trainer

BATCH, ROUND, MAX_NEW_TOKENS = 64, 50, 32
WEIGHTS: dict[str, float | None] = {
    "none": None, "cap 1": 1.0, "cap 2": 2.0, "cap 5": 5.0, "cap 10": 10.0, "no cap": float("inf"),
}  # fmt: skip
OBJECTIVES = {"gradient 0.3, KL 0.01": (0.3, 0.01), "gradient 0": (0.0, 0.0)}
STEPS = (5, 20, 50)
RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
SETTINGS = (
    "method.sources={offline: {mixing: 0.5}, dpr: {mixing: 0.5, labeler: annotator}}",
    "method.kl={coefficient: 0.01, on: policy, gradient: full}",
    "generate.num_generations=2",
    "label.pairs=all",
    "train.learning_rate=5.0e-4",
    f"train.steps_per_round={ROUND}",
)
"""Two responses a prompt, all of which carry the terms; the schedule is that of rounds as long as ours."""


class Measured(NamedTuple):
    """What the gradients of many batches say, beside those of fresh pairs; squares and products, to be averaged."""

    kl: float
    bias: float
    fresh_size: float
    variance: float
    fresh_variance: float
    truncated: float


@dataclass
class Run:
    """A policy in training, and the reference that it began as."""

    policy: Policy
    reference: Policy
    trainer: PreferenceTrainer
    objective: Objective
    state: TrainingState
    offline: Sequence[TrainingPair]
    seed: int

    def train(self, pairs: Sequence[TrainingPair], num_steps: int, done: int = 0) -> None:
        """The first steps of a round on these pairs and the offline ones, but for those that are done."""
        mixture = Mixture({"offline": 0.5, "dpr": 0.5}, BATCH, self.seed, per_round=["dpr"])
        number = (self.state.global_step - done) // ROUND + 1
        batches = mixture.round_batches({"offline": self.offline, "dpr": pairs}, number, ROUND)
        self.state = self.trainer.train_round(batches[done:num_steps], self.state)

    def sample(self, prompts: Sequence[str], *place: int | str) -> list[TrainingPair]:
        """A pair a prompt of the policy as it is, labelled by a draw of Bradley and Terry's, as in the quickstart."""
        tokens = [self.policy.tokenizer(prompt)["input_ids"] for prompt in prompts]
        requests = [
            Request(ids, derive_seed(self.seed, *place, index, sample))
            for index, ids in enumerate(tokens)
            for sample in range(2)
        ]
        engine, settings = TransformersEngine(256), SamplingSettings(1.0, 0, 1.0, MAX_NEW_TOKENS)
        samples = dict(sample for batch in engine.generate(self.policy, requests, settings) for sample in batch)
        texts = [
            self.policy.tokenizer.decode(samples[index].token_ids, skip_special_tokens=True)
            for index in range(len(requests))
        ]
        scores = hidden_reward([prompt for prompt in prompts for _ in range(2)], texts)
        rng, pairs = random.Random(derive_seed(self.seed, *place, "labels")), []
        for index, ids in enumerate(tokens):
            one, two = samples[2 * index], samples[2 * index + 1]
            margin = torch.tensor(scores[2 * index] - scores[2 * index + 1])
            if rng.random() >= margin.sigmoid().item():
                one, two = two, one
            logp = sum(one.logps) + sum(two.logps)
            pairs.append(TrainingPair(ids, one.token_ids, two.token_ids, 1.0, 1, index, index, sampled_logp=logp))
        return pairs

    def worth(self, prompts: Sequence[str]) -> float:
        """The mean hidden reward of a response to each prompt."""
        requests = [
            Request(self.policy.tokenizer(prompt)["input_ids"], derive_seed(self.seed, "worth", index))
            for index, prompt in enumerate(prompts)
        ]
        engine, settings = TransformersEngine(256), SamplingSettings(1.0, 0, 1.0, MAX_NEW_TOKENS)
        samples = dict(sample for batch in engine.generate(self.policy, requests, settings) for sample in batch)
        texts = [
            self.policy.tokenizer.decode(samples[index].token_ids, skip_special_tokens=True)
            for index in range(len(requests))
        ]
        return statistics.fmean(hidden_reward(list(prompts), texts))


def main() -> None:
    """Measure and print both tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--batches", type=int, default=16, help="batches of 64 pairs behind each row")
    parser.add_argument("--table", choices=["distances", "uses", "both"], default="both")
    arguments = parser.parse_args()
    command = f"python benchmarks/stale_pairs.py --seeds {' '.join(map(str, arguments.seeds))}"
    command += f" --batches {arguments.batches}" if arguments.batches != parser.get_default("batches") else ""
    with tempfile.TemporaryDirectory() as scratch:
        policies = {seed: warm_started(seed, Path(scratch) / str(seed)) for seed in arguments.seeds}
        if arguments.table != "uses":
            rows = [distances(seed, folder, arguments.batches) for seed, folder in policies.items()]
            report_distances(rows, command)
        if arguments.table != "distances":
            report_uses([uses(seed, folder) for seed, folder in policies.items()], command)


def warm_started(seed: int, folder: Path) -> Path:
    recipe = load_recipe(RECIPE, [f"seed={seed}"])
    policy, _ = make_initial_policy(recipe, Inputs(recipe), NoProgress())
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


def begin(seed: int, folder: Path, gradient: float, kl: float) -> Run:
    """A policy and its reference, both as after the warm start."""
    recipe = load_recipe(
        RECIPE,
        [
            *SETTINGS,
            f"seed={seed}",
            f"method.sources.dpr.gradient={gradient}",
            f"method.kl.coefficient={kl}",
            "train.source_grad_norms=never",
        ],
    )
    policy, reference = load_policy(folder), load_policy(folder)
    trainer = make_trainer(policy, reference.model, recipe, folder / "trainer", lambda: None)
    rows = world.preferences(recipe.playground.setting, seed)
    offline = OfflinePool(label_offline_pairs(rows, policy, recipe.label, "dataset").preferences, 0)
    return Run(policy, reference, trainer, recipe_objective(recipe), TrainingState(0, 0, None), offline, seed)


def prompts_of(seed: int, start: int, number: int) -> list[str]:
    """Some of the playground's training prompts; they begin anew where they end."""
    rows = world.prompts(seed)
    return [rows[index % len(rows)]["prompt"] for index in range(start, start + number)]


def distances(seed: int, folder: Path, num_batches: int) -> dict[tuple[str, int, str], Measured]:
    """By objective, steps since the sampling policy, and weights."""
    rows: dict[tuple[str, int, str], Measured] = {}
    number = num_batches * BATCH
    for name, (gradient, kl) in OBJECTIVES.items():
        run = begin(seed, folder, gradient, kl)
        run.train(run.sample(prompts_of(seed, 0, 512), "first"), ROUND)
        own, stale = (run.sample(prompts_of(seed, start, size), start) for start, size in ((512, 512), (1024, number)))
        for done, steps in zip((0, *STEPS), STEPS, strict=False):
            run.train(own, steps, done)
            fresh = run.sample(prompts_of(seed, 1024, number), "fresh", steps)
            truth = gradients(run, fresh, {"none": None}).batches["none"]
            found = gradients(run, stale, WEIGHTS)
            for weights in WEIGHTS:
                rows[name, steps, weights] = compared(found, weights, truth)
    return rows


class Gradients(NamedTuple):
    """Of every batch of some pairs, for each kind of weights.

    Args:
        batches: (batches, parameters).
        truncated: the share of pairs whose weight the cap cut.
        kl: of what sampled the pairs to the policy as it is, in nats a response.
    """

    batches: dict[str, torch.Tensor]
    truncated: dict[str, float]
    kl: float


def gradients(run: Run, pairs: Sequence[TrainingPair], weights: dict[str, float | None]) -> Gradients:
    """Of the loss as training has it, on batches of these pairs alone."""
    objective, model = run.objective, run.policy.model
    parameters, collate = list(model.parameters()), PairCollator(run.policy.tokenizer.pad_token_id)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in weights}
    figures = {name: Figures() for name in weights}
    for start in range(0, len(pairs), BATCH):
        inputs = collate(pairs[start : start + BATCH])
        inputs |= pairs_per_carrier(carriers(objective, inputs))
        losses = pair_losses(objective, model, run.reference.model, inputs)
        columns = (inputs[name] for name in ("source", "prompt_id", "response_ids"))
        whole = GlobalLosses(losses.losses_B.detach(), *columns)
        moved_B = inputs["sampled_logp"] - losses.logps_S.detach().view(2, -1).sum(0)
        for name, cap in weights.items():
            weighed = replace(objective, importance_weight_cap=cap)
            value = pair_values(weighed, losses, inputs, whole, figures[name]).mean()
            parts = torch.autograd.grad(value, parameters, retain_graph=True)
            found[name].append(torch.cat([part.flatten() for part in parts]))
            figures[name].add("kl", moved_B / 2)
    totals = {name: of.take() for name, of in figures.items()}
    return Gradients(
        {name: torch.stack(batches) for name, batches in found.items()},
        {name: total.get("dpr/importance_weight_truncated", 0.0) for name, total in totals.items()},
        next(iter(totals.values()))["kl"],
    )


def compared(found: Gradients, weights: str, fresh: torch.Tensor) -> Measured:
    """What the gradients with one kind of weights say, beside those of fresh pairs.

    Means over two halves have independent noise: products across them are of what both have in common.
    """
    batches = found.batches[weights]
    (one, two), (fresh_one, fresh_two) = ([half.mean(0) for half in each.chunk(2)] for each in (batches, fresh))
    return Measured(
        kl=found.kl,
        bias=((one - fresh_one) @ (two - fresh_two)).item(),
        fresh_size=(fresh_one @ fresh_two).item(),
        variance=batches.var(0).sum().item(),
        fresh_variance=fresh.var(0).sum().item(),
        truncated=found.truncated[weights],
    )


NUM_PROMPTS = (8, 32, 128, 512)


class Used(NamedTuple):
    """What a policy is after many steps on few pairs, or on many."""

    own_loss: float
    new_loss: float
    reward: float
    first_reward: float


def uses(seed: int, folder: Path) -> dict[int, Used]:
    """By the prompts of the first round."""
    held_out = [row["prompt"] for row in world.eval_prompts(seed)][:256]
    found = {}
    for number in NUM_PROMPTS:
        run = begin(seed, folder, *OBJECTIVES["gradient 0.3, KL 0.01"])
        first_reward = run.worth(held_out)
        pairs = run.sample(prompts_of(seed, 0, number), "uses")
        new = run.sample(prompts_of(seed, 5000, 512), "new")
        run.train(pairs, ROUND)
        loss = mean_loss(run)
        found[number] = Used(loss(pairs), loss(new), run.worth(held_out), first_reward)
    return found


def mean_loss(run: Run) -> Callable[[Sequence[TrainingPair]], float]:
    collate = PairCollator(run.policy.tokenizer.pad_token_id)

    def of(pairs: Sequence[TrainingPair]) -> float:
        with torch.no_grad():
            parts = [
                pair_losses(run.objective, run.policy.model, run.reference.model, collate(pairs[start : start + BATCH]))
                for start in range(0, len(pairs), BATCH)
            ]
        return torch.cat([part.losses_B for part in parts]).mean().item()

    return of


def mean(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over seeds."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def report_distances(rows: Sequence[dict[tuple[str, int, str], Measured]], command: str) -> None:
    """Print the first table."""
    sys.stdout.write(
        f"`{command}`: DPO, β 0.1, batches of {BATCH} pairs, lr 5e-4, {len(rows)} seeds together.\n\n"
        "| objective | steps away | KL | weights | error | variance | step | truncated |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    for objective, steps, weights in rows[0]:
        at = Measured(*map(statistics.fmean, zip(*(row[objective, steps, weights] for row in rows), strict=True)))
        figures = (
            max(at.bias / at.fresh_size, 0) ** 0.5,
            at.variance / at.fresh_variance,
            ((max(at.bias, 0) + at.variance) / at.fresh_variance) ** 0.5,
            at.truncated,
        )
        cells = [objective, str(steps), f"{at.kl:.2f}", weights, *(f"{figure:.2f}" for figure in figures)]
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.write("\n")


def report_uses(rows: Sequence[dict[int, Used]], command: str) -> None:
    """Print the second table."""
    sys.stdout.write(
        f"`{command}`: {ROUND} steps of one round, half of each batch of {BATCH} its own pairs; gradient 0.3, KL 0.01; "
        "hidden reward of 256 held-out prompts.\n\n"
        "| pairs of the round | uses of each | loss on them | on new pairs | reward before | reward after |\n"
        "|---|---|---|---|---|---|\n"
    )
    for number in rows[0]:
        own, new, reward, before = zip(*(row[number] for row in rows), strict=True)
        cells = [str(number), f"{ROUND * BATCH / 2 / number:.3g}", mean(own, 3), mean(new, 3)]
        sys.stdout.write(f"| {' | '.join([*cells, mean(before, 2), mean(reward, 2)])} |\n")


if __name__ == "__main__":
    main()
