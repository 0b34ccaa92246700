"""Each preset's loss against its paper's formula, worked out from log-probabilities that nothing of align's computed.

A recipe that names the preset goes the way of a run: hand-made pairs of the kind that it makes become a batch in the
train stage, and the trainer that is made of the recipe gives loss and gradient. What is expected is written with
Python's floats, coefficients included; gradients, where they are what the paper is about, come from autograd through
the paper's formula. Models are in double precision, because the optimism of SELM and XPO weighs 1e-5.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from small_training import Gradients, Models, collated, load_models, loss_and_gradients, random_tokens
from torch.nn.functional import logsigmoid

from align_cli.artifacts.records import Preference
from align_cli.models.load import Policy
from align_cli.recipe import Recipe, load_recipe
from align_cli.recipe.presets import FOLDER, preset_names
from align_cli.stages.train_round import train_policy
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.trainer import make_trainer

RECIPE = """
preset: {preset}
output_dir: {folder}
rounds: 3
policy: {{model_name_or_path: playground}}
data: {{prompts: playground, preferences: playground, demonstrations: playground}}
labelers:
  reward: {{kind: function, function: "align_cli.playground:hidden_reward"}}
generate: {{prompts_per_round: 10, max_new_tokens: 16}}
train: {{steps_per_round: 1, per_device_train_batch_size: 10, gradient_accumulation_steps: 1}}
"""
BATCH = 10
ROUNDS_BEFORE = 1
"""The batch is one of round 2, so that pairs of an earlier round can be there."""


@dataclass(frozen=True)
class Pair:
    """A pair of the batch with what models say of it, one sequence at a time.

    Args:
        source: as in the recipe.
        preference: what the stage before wrote down.
        chosen_T: log πθ of every token of the chosen response, with gradient; likewise `rejected_T`.
        reference_chosen: log π_ref of the whole response, likewise `reference_rejected`.
        token_kls: of both responses KL(πθ ‖ π_ref) at every position, with gradient.
        collisions: of both log Σ_v πθ(v)² at every position.
        initial: log π_init of both, where the preset asks for it.
    """

    source: str
    preference: Preference
    chosen_T: torch.Tensor
    rejected_T: torch.Tensor
    reference_chosen: float
    reference_rejected: float
    token_kls: tuple[torch.Tensor, torch.Tensor]
    collisions: tuple[list[float], list[float]]
    initial: tuple[float, float]

    @property
    def chosen(self) -> float:
        """log πθ(y_w)."""
        return math.fsum(self.chosen_T.tolist())

    @property
    def rejected(self) -> float:
        """log πθ(y_l)."""
        return math.fsum(self.rejected_T.tolist())

    @property
    def chosen_ratio(self) -> float:
        """s(y_w)."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> float:
        """s(y_l)."""
        return self.rejected - self.reference_rejected

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of both."""
        return len(self.chosen_T), len(self.rejected_T)

    @property
    def margin_with_gradient(self) -> torch.Tensor:
        """s(y_w) − s(y_l)."""
        return self.chosen_T.sum() - self.rejected_T.sum() - (self.reference_chosen - self.reference_rejected)


# What the presets train on: ids are random, who wrote what is as their stages write it down.


def written(rng: random.Random, number: int, source: str, chosen_by: str, rejected_by: str, **more: Any) -> Preference:
    chosen, rejected = random_tokens(rng, 1, 9), random_tokens(rng, 1, 9)
    fields: dict[str, Any] = {
        "prompt_ids": random_tokens(rng, 2, 6),
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "round": 0 if source == "offline" else ROUNDS_BEFORE + 1,
        "prompt_index": number,
        "chosen_index": 0 if chosen_by != "dataset" else None,
        "rejected_index": 1 if rejected_by == chosen_by == "policy" else 0 if rejected_by != "dataset" else None,
        "chosen_logp": -5.0 * len(chosen) if chosen_by != "dataset" else None,
        "rejected_logp": -5.0 * len(rejected) if rejected_by != "dataset" else None,
    }
    return Preference(
        "a prompt", "one", "two", source=source, chosen_by=chosen_by, rejected_by=rejected_by, **fields | more
    )


def offline_pairs(rng: random.Random) -> list[Preference]:
    return [written(rng, number, "offline", "dataset", "dataset") for number in range(BATCH)]


def reward_pairs(rng: random.Random) -> list[Preference]:
    return [written(rng, number, "dpr", "policy", "policy") for number in range(BATCH)]


def rated_pairs(rng: random.Random) -> list[Preference]:
    """With a win rate of each response, and the label that is made of both."""
    rated = []
    for number in range(BATCH):
        worse, better = sorted(rng.uniform(0, 1) for _ in range(2))
        rates = {"chosen_win_rate": better, "rejected_win_rate": worse, "label": 1 / (1 + math.exp(worse - better))}
        rated.append(written(rng, number, "dpr", "policy", "policy", **rates))
    return rated


def scored_pairs(rng: random.Random) -> list[Preference]:
    """With scores, and one tie."""
    scores = [(float(number), -rng.random() if number else 0.0) for number in range(BATCH)]
    return [
        written(rng, number, "dpr", "policy", "policy", chosen_score=better, rejected_score=worse)
        for number, (better, worse) in enumerate(scores)
    ]


def own_pairs(rng: random.Random) -> list[Preference]:
    """Labels that were stored are for people: training computes its own."""
    return [written(rng, number, "dpp", "policy", "policy", label=0.9) for number in range(BATCH)]


def mixed_pairs(rng: random.Random) -> list[Preference]:
    """Of both rounds, as they are replayed."""
    rounds = [{"round": 1 + number % 2} for number in range(BATCH)]
    return [written(rng, number, "dmd", "dataset", "policy", **more) for number, more in enumerate(rounds)]


def reference_pairs(rng: random.Random) -> list[Preference]:
    """The policy's response won, or the reference's; in this round or in the one before."""
    writers = [("policy", "reference"), ("reference", "policy")]
    return [
        written(rng, number, "dpr", *writers[number % 2], round=1 + number // 2 % 2, rejected_index=0)
        for number in range(BATCH)
    ]


def with_offline(*others: Callable[[random.Random], list[Preference]]) -> Callable[[random.Random], list[Preference]]:
    return lambda rng: [pair for make in (offline_pairs, *others) for pair in make(rng)]


# The papers' losses.


def log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value))


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def dpo_of(pair: Pair, beta: float) -> float:
    """−log σ(β log πθ(y_w)/π_ref(y_w) − β log πθ(y_l)/π_ref(y_l))."""
    return -log_sigmoid(beta * pair.chosen_ratio - beta * pair.rejected_ratio)


def dpo(pairs: list[Pair]) -> float:
    """Eq. 7, arXiv:2305.18290; β 0.1. Iterative and online DPO have it on their own responses."""
    return mean([dpo_of(pair, 0.1) for pair in pairs])


def ipo(pairs: list[Pair]) -> float:
    """Eq. 17, arXiv:2310.12036, τ 0.1: (h − 1/(2τ))², the log-ratios divided by lengths as TRL does."""
    return mean(
        [
            (pair.chosen_ratio / pair.lengths[0] - pair.rejected_ratio / pair.lengths[1] - 1 / (2 * 0.1)) ** 2
            for pair in pairs
        ]
    )


def slic(pairs: list[Pair]) -> float:
    """The hinge of arXiv:2309.06657: max(0, 1 − γ (log-ratio of y_w − log-ratio of y_l)), γ 0.1."""
    return mean([max(0.0, 1 - 0.1 * (pair.chosen_ratio - pair.rejected_ratio)) for pair in pairs])


def simpo(pairs: list[Pair]) -> float:
    """Eq. 6, arXiv:2405.14734: −log σ(β/|y_w| log πθ(y_w) − β/|y_l| log πθ(y_l) − γ), β 2 and γ 1."""
    return mean(
        [
            -log_sigmoid(2.0 / pair.lengths[0] * pair.chosen - 2.0 / pair.lengths[1] * pair.rejected - 1.0)
            for pair in pairs
        ]
    )


def spin(pairs: list[Pair]) -> float:
    """Algorithm 1, arXiv:2401.01335: ℓ(λ log pθ(y)/p_θt(y) − λ log pθ(y')/p_θt(y')), ℓ(t) = log(1 + e^−t), λ 0.1.

    y comes from the data and y' from the opponent p_θt, the policy of the round before, which is the reference.
    """
    assert all(pair.preference.chosen_by == "dataset" and pair.preference.rejected_by == "policy" for pair in pairs)
    return mean([math.log1p(math.exp(-(0.1 * pair.chosen_ratio - 0.1 * pair.rejected_ratio))) for pair in pairs])


def selm(pairs: list[Pair]) -> float:
    """arXiv:2405.19332: DPO + αβ E_{y~π_ref}[log πθ(y)/π_ref(y)], α 0.001, β 0.01; π_ref sampled both responses."""
    beta, alpha = 0.01, 0.001
    optimism = [(pair.chosen_ratio + pair.rejected_ratio) / 2 for pair in pairs]
    return mean([dpo_of(pair, beta) for pair in pairs]) + alpha * beta * mean(optimism)


def selm_with_gradient(pairs: list[Pair]) -> torch.Tensor:
    losses = [-logsigmoid(0.01 * pair.margin_with_gradient) for pair in pairs]
    sampled = [response for pair in pairs for response in (pair.chosen_T.sum(), pair.rejected_T.sum())]
    return torch.stack(losses).mean() + 0.001 * 0.01 * torch.stack(sampled).mean()


def of_reference(pair: Pair) -> torch.Tensor:
    return (pair.chosen_T if pair.preference.chosen_by == "reference" else pair.rejected_T).sum()


def xpo_with_gradient(pairs: list[Pair]) -> torch.Tensor:
    """Algorithm 1, arXiv:2405.21046: DPO + α log πθ(ỹ), ỹ the response that π_ref sampled; α 1e-5, β 0.1."""
    losses = [-logsigmoid(0.1 * pair.margin_with_gradient) for pair in pairs]
    return torch.stack(losses).mean() + 1e-5 * torch.stack([of_reference(pair) for pair in pairs]).mean()


def xpo(pairs: list[Pair]) -> float:
    """The paper's value, less α log π_ref(ỹ): ours has a log-ratio there, a constant apart, of the same gradient."""
    paper = [
        dpo_of(pair, 0.1) + 1e-5 * (pair.chosen if pair.preference.chosen_by == "reference" else pair.rejected)
        for pair in pairs
    ]
    constant = [
        1e-5 * (pair.reference_chosen if pair.preference.chosen_by == "reference" else pair.reference_rejected)
        for pair in pairs
    ]
    return mean(paper) - mean(constant)


def iterative_rpo(pairs: list[Pair]) -> float:
    """Eq. 1, arXiv:2404.19733: DPO − α log πθ(y_w)/|y_w|, α 1, β 0.1."""
    return mean([dpo_of(pair, 0.1) - pair.chosen / pair.lengths[0] for pair in pairs])


def iterative_rpo_with_gradient(pairs: list[Pair]) -> torch.Tensor:
    values = [-logsigmoid(0.1 * pair.margin_with_gradient) - pair.chosen_T.mean() for pair in pairs]
    return torch.stack(values).mean()


def sppo_of(chosen_ratio: Any, rejected_ratio: Any, pair: Pair) -> Any:
    """(s_w − η(P̂_w − ½))² + (s_l − η(P̂_l − ½))², η 1000."""
    targets = [1000 * (rate - 0.5) for rate in (pair.preference.chosen_win_rate, pair.preference.rejected_win_rate)]
    return (chosen_ratio - targets[0]) ** 2 + (rejected_ratio - targets[1]) ** 2


def sppo(pairs: list[Pair]) -> float:
    """Eq. 4.7, arXiv:2405.00675, summed over a pair's responses."""
    return mean([sppo_of(pair.chosen_ratio, pair.rejected_ratio, pair) for pair in pairs])


def sppo_with_gradient(pairs: list[Pair]) -> torch.Tensor:
    values = [
        sppo_of(pair.chosen_T.sum() - pair.reference_chosen, pair.rejected_T.sum() - pair.reference_rejected, pair)
        for pair in pairs
    ]
    return torch.stack(values).mean()


def dno(pairs: list[Pair]) -> float:
    """Algorithm 1, arXiv:2404.03715, η 0.1: −σ(r_w − r_l) log σ(ηh) − σ(r_l − r_w) log σ(−ηh), r the win rates."""
    values = []
    for pair in pairs:
        gap = pair.preference.chosen_win_rate - pair.preference.rejected_win_rate
        q, logit = 1 / (1 + math.exp(-gap)), 0.1 * (pair.chosen_ratio - pair.rejected_ratio)
        values.append(-q * log_sigmoid(logit) - (1 - q) * log_sigmoid(-logit))
    return mean(values)


def hypo(pairs: list[Pair]) -> float:
    """The entropy of the policy's own labels is there too; its gradient is 0."""
    kls = [math.fsum(kl.tolist()) for pair in pairs if pair.source == "dpp" for kl in pair.token_kls]
    return sail({})(pairs) + 0.02 * mean(kls)


def hypo_with_gradient(pairs: list[Pair]) -> torch.Tensor:
    """Algorithm 1, arXiv:2406.01462: E_off[DPO] + λ KL(πθ ‖ π_ref), halved, λ 0.04; no term of dpp but the KL."""
    offline = [-logsigmoid(0.1 * pair.margin_with_gradient) for pair in pairs if pair.source == "offline"]
    return (torch.stack(offline).mean() + 0.04 * sequence_kl_with_gradient(pairs)) / 2


def wpo_weight(pair: Pair) -> float:
    """w(x, y_w) w(x, y_l), log w the mean over tokens of log π(y_t) − log Σ_v π(v)², arXiv:2406.11827."""
    chosen = mean([logp - other for logp, other in zip(pair.chosen_T.tolist(), pair.collisions[0], strict=True)])
    rejected = mean([logp - other for logp, other in zip(pair.rejected_T.tolist(), pair.collisions[1], strict=True)])
    return math.exp(chosen) * math.exp(rejected)


def wpo(pairs: list[Pair]) -> float:
    return mean([wpo_weight(pair) * dpo_of(pair, 0.01) for pair in pairs])


def wpo_with_gradient(pairs: list[Pair]) -> torch.Tensor:
    """No gradient goes through the weights."""
    return torch.stack([wpo_weight(pair) * -logsigmoid(0.01 * pair.margin_with_gradient) for pair in pairs]).mean()


def rebel(pairs: list[Pair]) -> float:
    """Algorithm 1, arXiv:2404.16767, η 1: ((1/η)(log-ratio of y − log-ratio of y') − (r(y) − r(y')))²."""
    return mean(
        [
            (pair.chosen_ratio - pair.rejected_ratio - (pair.preference.chosen_score - pair.preference.rejected_score))
            ** 2
            for pair in pairs
        ]
    )


def inpo_of(policy_gap: Any, pair: Pair) -> Any:
    """(h_t − 1/(2η))², h_t = log π(y_w)/π(y_l) − τ/η log π_ref(y_w)/π_ref(y_l) − (1 − τ/η) log π_t(y_w)/π_t(y_l)."""
    of_initial, of_previous = pair.initial[0] - pair.initial[1], pair.reference_chosen - pair.reference_rejected
    return (policy_gap - of_initial / 3 - 2 * of_previous / 3 - 1 / (2 * 0.005)) ** 2


def inpo(pairs: list[Pair]) -> float:
    """The loss of Algorithm 1, arXiv:2407.00617, η 0.005 and τ/η 1/3."""
    return mean([inpo_of(pair.chosen - pair.rejected, pair) for pair in pairs])


def inpo_with_gradient(pairs: list[Pair]) -> torch.Tensor:
    return torch.stack([inpo_of(pair.chosen_T.sum() - pair.rejected_T.sum(), pair) for pair in pairs]).mean()


POLICY_RESPONSES, POLICY_LABELS = ("dpp", "dpr"), ("ddp", "dpp")


class SailTerms(NamedTuple):
    """Of one pair the numbers that the surrogate of arXiv:2406.15567 holds fixed, β 0.1.

    Args:
        q: probability that the chosen response wins.
        forward: ℓ(h).
        backward: ℓ(−h).
        loss: ℓ̄ = q ℓ(h) + (1 − q) ℓ(−h).
    """

    q: float
    forward: float
    backward: float
    loss: float


def sail_terms(pair: Pair) -> SailTerms:
    logit = 0.1 * (pair.chosen_ratio - pair.rejected_ratio)
    q = 1 / (1 + math.exp(-logit)) if pair.source in POLICY_LABELS else 1.0
    forward, backward = -log_sigmoid(logit), -log_sigmoid(-logit)
    return SailTerms(q, forward, backward, q * forward + (1 - q) * backward)


def advantage(pairs: list[Pair], index: int) -> float:
    """ℓ̄ − b: prompts have one pair each, so the baseline is the mean of the source's other pairs."""
    others = [
        sail_terms(pair).loss for at, pair in enumerate(pairs) if at != index and pair.source == pairs[index].source
    ]
    return sail_terms(pairs[index]).loss - mean(others)


def sail(coefficients: dict[str, float]) -> Callable[[list[Pair]], float]:
    """ℓ̄ + c Σ_i (ℓ̄ − b_i) log πθ(y_i) [policy responses] + c Σ_z q_z ℓ(h_z) log pθ(z) [policy labels]."""

    def value(pairs: list[Pair]) -> float:
        values = []
        for index, pair in enumerate(pairs):
            terms, coefficient = sail_terms(pair), coefficients.get(pair.source, 0.0)
            total = terms.loss
            if pair.source in POLICY_RESPONSES:
                total += coefficient * advantage(pairs, index) * (pair.chosen + pair.rejected)
            if pair.source in POLICY_LABELS:
                first, second = math.log(terms.q), math.log(1 - terms.q)
                total += coefficient * (terms.q * terms.forward * first + (1 - terms.q) * terms.backward * second)
            values.append(total)
        return mean(values)

    return value


def sail_with_gradient(coefficients: dict[str, float]) -> Callable[[list[Pair]], torch.Tensor]:
    """The same with the floats above for everything under a stop-gradient."""

    def value(pairs: list[Pair]) -> torch.Tensor:
        values = []
        for index, pair in enumerate(pairs):
            terms, coefficient = sail_terms(pair), coefficients.get(pair.source, 0.0)
            first, second = (logsigmoid(sign * 0.1 * pair.margin_with_gradient) for sign in (1, -1))
            total = -terms.q * first - (1 - terms.q) * second
            if pair.source in POLICY_RESPONSES:
                total = total + coefficient * advantage(pairs, index) * (pair.chosen_T.sum() + pair.rejected_T.sum())
            if pair.source in POLICY_LABELS:
                fixed = terms.q * terms.forward, (1 - terms.q) * terms.backward
                total = total + coefficient * (fixed[0] * first + fixed[1] * second)
            values.append(total)
        return torch.stack(values).mean()

    return value


def revkl(pairs: list[Pair]) -> float:
    """arXiv:2606.31524: SAIL-PP, and 0.02 KL(πθ ‖ π_ref) of the policy's responses: exact over the vocabulary."""
    kls = [math.fsum(kl.tolist()) for pair in pairs if pair.source == "dpp" for kl in pair.token_kls]
    return sail({"dpp": 0.2})(pairs) + 0.02 * mean(kls)


def revkl_with_gradient(pairs: list[Pair]) -> torch.Tensor:
    return sail_with_gradient({"dpp": 0.2})(pairs) + 0.02 * sequence_kl_with_gradient(pairs)


def sequence_kl_with_gradient(pairs: list[Pair]) -> torch.Tensor:
    """The KL's gradient is E[Σ_t ∇KL_t + Σ_t ∇log πθ(y_t) (Σ_{u>t} KL_u − b_t)]: later tokens hang on earlier ones.

    b_t is what the pair's other response has behind the same position.
    """
    kls = []
    for pair in pairs:
        if pair.source == "dpp":
            kl, other_kl = pair.token_kls
            for kl_T, logps_T, other_T in ((kl, pair.chosen_T, other_kl), (other_kl, pair.rejected_T, kl)):
                later = [
                    math.fsum(kl_T.tolist()[step + 1 :]) - math.fsum(other_T.tolist()[step + 1 :])
                    for step in range(len(kl_T))
                ]
                kls.append(kl_T.sum() + (torch.tensor(later, dtype=logps_T.dtype) * logps_T).sum())
    return torch.stack(kls).mean()


def sail_dpr(pairs: list[Pair]) -> float:
    """DPO, and 0.05 KL(πθ ‖ π_ref) of every response, exact over the vocabulary."""
    return dpo(pairs) + 0.05 * mean([math.fsum(kl.tolist()) for pair in pairs for kl in pair.token_kls])


def sail_dpr_with_gradient(pairs: list[Pair]) -> torch.Tensor:
    """The KL as a regulariser: how it moves with the tokens' distributions, and not with who is sampled."""
    kl = torch.stack([kl_T.sum() for pair in pairs for kl_T in pair.token_kls]).mean()
    return sail_with_gradient({})(pairs) + 0.05 * kl


class Case(NamedTuple):
    """A preset's pairs, its paper's value, and the formula whose gradient counts, with the plain part of it."""

    pairs: Callable[[random.Random], list[Preference]]
    value: Callable[[list[Pair]], float]
    with_gradient: Callable[[list[Pair]], torch.Tensor] | None = None


def sail_case(*sources: Callable[[random.Random], list[Preference]], **coefficients: float) -> Case:
    return Case(with_offline(*sources), sail(coefficients), sail_with_gradient(coefficients))


CASES = {
    "offline-dpo": Case(offline_pairs, dpo),
    "offline-ipo": Case(offline_pairs, ipo),
    "offline-slic": Case(offline_pairs, slic),
    "offline-simpo": Case(offline_pairs, simpo),
    "iterative-dpo": Case(reward_pairs, dpo),
    "online-dpo": Case(reward_pairs, dpo),
    "self-rewarding": Case(reward_pairs, dpo),
    "spin": Case(mixed_pairs, spin),
    "selm": Case(reward_pairs, selm, selm_with_gradient),
    "xpo": Case(reference_pairs, xpo, xpo_with_gradient),
    "sail-ddp": sail_case(ddp=0.2),
    "sail-dpp": sail_case(own_pairs, dpp=0.2),
    "sail-dpr": Case(with_offline(reward_pairs), sail_dpr, sail_dpr_with_gradient),
    "sail-dpr-as-published": sail_case(reward_pairs, dpr=0.3),
    "sail-mix": sail_case(own_pairs, reward_pairs, ddp=0.2, dpp=0.2, dpr=0.3),
    "sail-revkl": Case(with_offline(own_pairs), revkl, revkl_with_gradient),
    "semi-online-dpo": Case(reward_pairs, dpo),
    "iterative-rpo": Case(reward_pairs, iterative_rpo, iterative_rpo_with_gradient),
    "sppo": Case(rated_pairs, sppo, sppo_with_gradient),
    "dno": Case(rated_pairs, dno),
    "hypo": Case(with_offline(own_pairs), hypo, hypo_with_gradient),
    "online-simpo": Case(reward_pairs, simpo),
    "wpo": Case(offline_pairs, wpo, wpo_with_gradient),
    "rebel": Case(scored_pairs, rebel),
    "inpo": Case(reward_pairs, inpo, inpo_with_gradient),
}
SHARES = {
    "sail-ddp": {"offline": 6, "ddp": 4},
    "sail-dpp": {"offline": 7, "dpp": 3},
    "sail-dpr": {"offline": 2, "dpr": 8},
    "sail-dpr-as-published": {"offline": 7, "dpr": 3},
    "sail-mix": {"offline": 4, "ddp": 2, "dpp": 2, "dpr": 2},
    "sail-revkl": {"offline": 7, "dpp": 3},
    "hypo": {"offline": 5, "dpp": 5},
}
ADDS_A_TERM = (
    "selm",
    "xpo",
    "sail-ddp",
    "sail-dpp",
    "sail-dpr",
    "sail-dpr-as-published",
    "sail-mix",
    "sail-revkl",
    "iterative-rpo",
    "hypo",
)


def test_every_preset_has_a_case() -> None:
    assert sorted(CASES) == preset_names()


class Worked(NamedTuple):
    """A preset's batch through the trainer, and the same pairs for working it out by hand."""

    recipe: Recipe
    models: Models
    loss: float
    gradients: Gradients
    pairs: list[Pair]


class BatchRecorder:
    """Stands where the trainer stands, and keeps the batches that the train stage makes."""

    step_records: tuple[()] = ()

    def train_round(self, batches: list[list[TrainingPair]], start: TrainingState, *_: Any, **__: Any) -> TrainingState:
        self.batches = batches
        return start


def load_preset(preset: str, folder: Path, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(preset=preset, folder=folder / "run"), encoding="utf-8")
    return load_recipe(path, [*labeler_overrides(preset), *overrides])


def labeler_overrides(preset: str) -> list[str]:
    """A preset with reward labels leaves the labeler to the recipe."""
    keys = yaml.safe_load((FOLDER / f"{preset}.yaml").read_text(encoding="utf-8"))
    return ["method.sources.dpr.labeler=reward"] if "dpr" in keys["method"]["sources"] else []


def work(preset: str, folders: list[Path], scratch: Path, *overrides: str) -> Worked:
    recipe = load_preset(preset, scratch, *overrides)
    preferences = CASES[preset].pairs(random.Random(0))
    recorder = BatchRecorder()
    start = TrainingState(round=ROUNDS_BEFORE, global_step=1, parent=None)
    models = load_models(folders)
    for policy in models:
        policy.model.double()
    initial = initial_policy(folders, models) if recipe.method.initial_reference else None
    train_policy(recorder, recipe, preferences, start, None, initial=initial)  # type: ignore[arg-type]
    (batch,) = recorder.batches
    trainer = make_trainer(models.policy, models.reference.model, recipe, scratch, lambda: None)
    loss, gradients = loss_and_gradients(trainer, collated(models, batch))
    pairs = pairs_of(recipe, batch, preferences, models, initial)
    return Worked(recipe, models, loss.item(), gradients, pairs)


def initial_policy(folders: list[Path], models: Models) -> Policy:
    """A third model: the policy with its head turned round."""
    initial = load_models(folders).policy
    initial.model.double()
    initial.model.lm_head.weight.data = -models.policy.model.lm_head.weight.data
    return initial


def pairs_of(
    recipe: Recipe,
    batch: list[TrainingPair],
    preferences: list[Preference],
    models: Models,
    initial: Policy | None,
) -> list[Pair]:
    """The preferences behind a batch's pairs, found by their tokens."""
    sources = list(recipe.method.sources.in_use())

    def tokens(pair: TrainingPair | Preference) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(ids or ()) for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids))

    written_as = {tokens(preference): preference for preference in preferences}
    return [looked_at(sources[pair.source], written_as[tokens(pair)], models, initial) for pair in batch]


def looked_at(source: str, preference: Preference, models: Models, initial: Policy | None) -> Pair:
    ours, theirs, kls, collisions, first_said = [], [], [], [], []
    for ids in (preference.chosen_ids, preference.rejected_ids):
        tokens, first = torch.tensor([preference.prompt_ids + ids]), len(preference.prompt_ids)
        rows_TV = models.policy.model(input_ids=tokens).logits[0, first - 1 : -1].log_softmax(-1)
        with torch.no_grad():
            reference_TV = models.reference.model(input_ids=tokens).logits[0, first - 1 : -1].log_softmax(-1)
        steps, targets = range(len(ids)), ids
        ours.append(rows_TV[steps, targets])
        theirs.append(math.fsum(reference_TV[steps, targets].tolist()))
        kls.append((rows_TV.exp() * (rows_TV - reference_TV)).sum(-1))
        collisions.append((2 * rows_TV).logsumexp(-1).tolist())
        if initial is not None:
            with torch.no_grad():
                initial_TV = initial.model(input_ids=tokens).logits[0, first - 1 : -1].log_softmax(-1)
            first_said.append(math.fsum(initial_TV[steps, targets].tolist()))
    return Pair(source, preference, *ours, *theirs, tuple(kls), tuple(collisions), tuple(first_said))


@pytest.mark.parametrize("preset", preset_names())
def test_a_presets_loss_is_its_papers(preset: str, model_folders: list[Path], tmp_path: Path) -> None:
    worked = work(preset, model_folders, tmp_path)
    counts: dict[str, int] = {}
    for pair in worked.pairs:
        counts[pair.source] = counts.get(pair.source, 0) + 1
    assert counts == SHARES.get(preset, {next(iter(counts)): BATCH})
    expected = CASES[preset].value(worked.pairs)
    assert worked.loss == pytest.approx(expected, rel=1e-6)
    with_gradient = CASES[preset].with_gradient
    if with_gradient is not None:
        assert_gradient_is(worked, with_gradient(worked.pairs), relative=1e-5)


CONTENDERS = ("iterative-rpo", "sppo", "dno", "online-simpo", "wpo", "rebel", "inpo")


@pytest.mark.parametrize("preset", CONTENDERS)
def test_a_swap_of_chosen_and_rejected_would_be_seen(preset: str, model_folders: list[Path], tmp_path: Path) -> None:
    """With the responses' places changed, and what is said of them left, the formula gives another value."""
    worked = work(preset, model_folders, tmp_path)
    swapped = [
        replace(
            pair,
            chosen_T=pair.rejected_T,
            rejected_T=pair.chosen_T,
            reference_chosen=pair.reference_rejected,
            reference_rejected=pair.reference_chosen,
            collisions=pair.collisions[::-1],
            initial=pair.initial[::-1],
        )
        for pair in worked.pairs
    ]
    assert worked.loss != pytest.approx(CASES[preset].value(swapped), rel=1e-4)


@pytest.mark.parametrize("preset", ADDS_A_TERM)
def test_what_the_paper_adds_is_there_and_no_more(preset: str, model_folders: list[Path], tmp_path: Path) -> None:
    """Without its key the gradient is plain DPO's; the difference to the preset's is the paper's term, to a percent."""
    off = {
        "selm": ["method.optimism.coefficient=0"],
        "xpo": ["method.optimism.coefficient=0"],
        "iterative-rpo": ["method.nll.coefficient=0"],
    }.get(preset, [f"method.sources.{name}.gradient=0" for name in SHARES.get(preset, {}) if name != "offline"])
    off += ["method.kl.coefficient=0"] if preset in ("sail-revkl", "sail-dpr", "hypo") else []
    worked, plain = work(preset, model_folders, tmp_path), work(preset, model_folders, tmp_path, *off)
    formula = CASES[preset].with_gradient
    assert formula is not None
    without = {"selm": plain_dpo(0.01), "xpo": plain_dpo(0.1), "iterative-rpo": plain_dpo(0.1)}.get(
        preset, sail_with_gradient({})
    )
    added = {name: worked.gradients[name] - plain.gradients[name] for name in worked.gradients}
    expected = flat_gradient(formula(worked.pairs) - without(worked.pairs), worked.models)
    error = flat(added) - expected
    assert error.norm() < 0.01 * expected.norm()
    assert_gradient_is(plain, without(plain.pairs), relative=1e-5)


def plain_dpo(beta: float) -> Callable[[list[Pair]], torch.Tensor]:
    return lambda pairs: torch.stack([-logsigmoid(beta * pair.margin_with_gradient) for pair in pairs]).mean()


def flat(gradients: Gradients) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def flat_gradient(value: torch.Tensor, models: Models) -> torch.Tensor:
    parameters = list(models.policy.model.parameters())
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, parameters, retain_graph=True)])


def assert_gradient_is(worked: Worked, value: torch.Tensor, relative: float) -> None:
    expected = flat_gradient(value, worked.models)
    assert (flat(worked.gradients) - expected).norm() < relative * expected.norm()
