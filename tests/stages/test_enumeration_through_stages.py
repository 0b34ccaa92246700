"""The expected gradient of every step by enumeration, from the label stage to the trainer's loss.

A small Llama with two tokens writes three responses. Everything that can be sampled in a round goes through the label
stage, the pools, the mixture, the collator and the loss of the trainer that is made of the recipe; the gradient of each
step, averaged with the probabilities of what was sampled, has to be that of the enumerated objective at these weights.
What a step holds (sources and prompts, not responses) is the same in all outcomes, and says what its objective is.

Every design is run once more with one thing wrong, and then fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from small_llama import small_llama
from transformers import LlamaForCausalLM

from align_cli.artifacts.records import Completion, Preference
from align_cli.labelers import Scorer
from align_cli.methods.preference import preference_loss
from align_cli.models.load import Policy
from align_cli.models.measures import OneMeasure
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.playground.model import make_word_tokenizer
from align_cli.recipe import Recipe
from align_cli.stages.base import Artifact, Context, NoProgress, NoWork
from align_cli.stages.label import Label
from align_cli.stages.train_round import train_policy
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.trainer import PreferenceTrainer, make_trainer

PAD, EOS, BETA = 0, 1, 0.5
RESPONSES = [[EOS], [0, 0], [0, EOS]]
PROMPTS = [[0, 1], [1, 0, 0]]
TEXTS = ["short", "open", "ended"]
SCORES = {"distinct": [0.4, -0.9, 1.3], "tied": [0.8, 0.8, -0.6]}
EXACT, NOTICED = 1e-5, 1e-2
OFFLINE = Preference("a prompt", "one", "two", prompt_ids=PROMPTS[0], chosen_ids=[0, EOS], rejected_ids=[EOS])
DPR = "method.sources={dpr: {mixing: 1, gradient: 1.0, labeler: hidden}}"
DPP = "method.sources={dpp: {mixing: 1, gradient: 1.0}}"
MIXED_IN = "method.sources={offline: {mixing: 0.7}, dpr: {mixing: 0.3, gradient: 1.0, labeler: hidden}}"


class Draw(NamedTuple):
    """A sample of a round: of which prompt, which number, and who sampled it.

    `earlier` is the policy of another round, which completions call `policy` all the same.
    """

    prompt: int
    sample: int
    sampled_by: str = "policy"
    round: int = 1


@dataclass(frozen=True)
class Design:
    """What a round is made of.

    Args:
        overrides: of the small recipe.
        draws: everything that is sampled.
        steps: optimizer steps.
        batch: pairs in a step; each forward pass holds `micro` of them.
        scores: the reward of each response.
        writers: who wrote the responses that a pair depends on.
    """

    overrides: tuple[str, ...]
    draws: tuple[Draw, ...]
    steps: int
    batch: int
    micro: int
    scores: str = "distinct"
    writers: tuple[str, ...] = ("policy", "policy")


def draws_of(prompt: int, number: int, sampled_by: str = "policy", round_number: int = 1) -> tuple[Draw, ...]:
    return tuple(Draw(prompt, sample, sampled_by, round_number) for sample in range(number))


ALL_OF_THREE = ("generate.num_generations=3", "label={pairs: all, labels: soft}")
DESIGNS = {
    "a border that cuts a prompt's pairs": Design((DPR, *ALL_OF_THREE), draws_of(0, 3), steps=3, batch=2, micro=2),
    "a border that cuts the second prompt": Design(
        (DPR, *ALL_OF_THREE), (*draws_of(0, 3), *draws_of(1, 3)), steps=1, batch=4, micro=4
    ),
    "a border that cuts self-labelled pairs": Design(
        (DPP, "generate.num_generations=3"), draws_of(0, 3), steps=2, batch=2, micro=2
    ),
    "ties": Design((DPR, *ALL_OF_THREE), draws_of(0, 3), steps=3, batch=2, micro=1, scores="tied"),
    "best against worst of three": Design(
        (DPR, "generate.num_generations=3"), draws_of(0, 3), steps=1, batch=1, micro=1, writers=("policy",) * 3
    ),
    "best against worst of three of another policy's": Design(
        (DPR, "generate.num_generations=3", "method.importance_weight_cap=1.0e+9"),
        draws_of(0, 3, "earlier"),
        steps=1,
        batch=1,
        micro=1,
        writers=("policy",) * 3,
    ),
    "a prompt that is drawn twice": Design((DPR, "label.labels=soft"), draws_of(0, 4), steps=1, batch=2, micro=1),
    "pairs of an earlier round": Design(
        (
            DPR,
            "label.labels=soft",
            "train.replay_rounds=1",
            "method.importance_weight_cap=1.0e+9",
            "method.kl.coefficient=0.8",
        ),
        (*draws_of(0, 2, "earlier", 1), *draws_of(0, 2, "policy", 2)),
        steps=1,
        batch=2,
        micro=2,
    ),
    "a share that divides no batch": Design(
        (
            MIXED_IN,
            "label.labels=soft",
            "generate={num_generations: 1, num_reference_generations: 1}",
            "method.kl.coefficient=0.8",
            "method.optimism.coefficient=0.6",
        ),
        tuple(Draw(prompt, 0, sampled_by) for prompt in (0, 1) for sampled_by in ("policy", "reference")),
        steps=3,
        batch=4,
        micro=2,
        writers=("policy", "reference"),
    ),
}
CUT, CUT_SECOND, CUT_OWN, TIES, BEST, BEST_WEIGHED, TWICE, REPLAY, SHARES = DESIGNS


def small_model(seed: int) -> LlamaForCausalLM:
    return small_llama(seed, 2, pad_token_id=PAD, eos_token_id=EOS).double()


class World:
    """Three models over the three responses to each prompt."""

    def __init__(self) -> None:
        self.models = {name: small_model(seed) for seed, name in enumerate(("policy", "reference", "earlier"))}
        self.policy, self.reference = (
            Policy(self.models[name], make_word_tokenizer(["a"]), name) for name in ("policy", "reference")
        )

    def logps(self, name: str, prompt: int) -> torch.Tensor:
        """Of each response; with gradient for the policy."""
        logps = response_logps(self.models[name], pad_batch([PROMPTS[prompt]] * 3, RESPONSES, PAD))
        return logps if name == "policy" else logps.detach()

    def ratios(self, prompt: int) -> torch.Tensor:
        """s of each response."""
        return self.logps("policy", prompt) - self.logps("reference", prompt)

    def losses(self, prompt: int, labels: torch.Tensor) -> torch.Tensor:
        """(3, 3) the expected loss of a pair of responses, the first better with probability `labels`."""
        ratios = self.ratios(prompt)
        margins = ratios.unsqueeze(1) - ratios.unsqueeze(0)
        forward, backward = (preference_loss(sign * margins, "sigmoid", BETA) for sign in (1, -1))
        return labels * forward + (1 - labels) * backward


class Objective:
    """What a step's gradient is one of, from the definition: expectations as sums over all responses."""

    def __init__(self, world: World, recipe: Recipe, design: Design) -> None:
        self.world, self.recipe, self.design = world, recipe, design
        self.scores = torch.tensor(SCORES[design.scores], dtype=torch.float64)

    def labels(self, source: str, prompt: int) -> torch.Tensor:
        """(3, 3) the probability that the first is better."""
        if source == "dpp":
            ratios = self.world.ratios(prompt)
            return (BETA * (ratios.unsqueeze(1) - ratios.unsqueeze(0))).sigmoid()
        margins = self.scores.unsqueeze(1) - self.scores.unsqueeze(0)
        return margins.sigmoid() if self.recipe.label.labels == "soft" else (margins.sign() + 1) / 2

    def of_pair(self, source: str, prompt: int) -> torch.Tensor:
        """J of one pair's source and prompt."""
        if source == "offline":
            ratios = self.world.ratios(0)
            return preference_loss(ratios[2] - ratios[0], "sigmoid", BETA)
        losses = self.world.losses(prompt, self.labels(source, prompt))
        probabilities = [self.world.logps(writer, prompt).exp() for writer in self.design.writers]
        total = torch.zeros((), dtype=torch.float64)
        for drawn in product(range(3), repeat=len(probabilities)):
            best, *_, worst = sorted(drawn, key=lambda response: -self.scores[response].item())
            one, two = (best, worst) if len(drawn) > 2 else drawn
            probability = torch.stack([p[response] for p, response in zip(probabilities, drawn, strict=True)]).prod()
            total = total + probability * losses[one, two]
        return total

    def of_step(self, batch: Sequence[tuple[str, int]]) -> torch.Tensor:
        """The mean over the pairs, and each term's coefficient times its mean over the pairs that carry it."""
        method = self.recipe.method
        value = torch.stack([self.of_pair(*pair) for pair in batch]).mean()
        carrying = [prompt for source, prompt in batch if source != "offline"]
        kl = [(self.world.logps("policy", prompt).exp() * self.world.ratios(prompt)).sum() for prompt in carrying]
        drawn = [(self.world.logps("reference", prompt).exp() * self.world.ratios(prompt)).sum() for prompt in carrying]
        value = value + method.kl.coefficient * torch.stack(kl).mean()
        return value + method.optimism.coefficient * torch.stack(drawn).mean()


class GivenScores(Scorer):
    """The labeler: it knows the responses by their texts."""

    name = "given"
    batch_size = 64

    def __init__(self, scores: list[float]) -> None:
        self.scores = dict(zip(TEXTS, scores, strict=True))

    def score(self, prompts: Sequence[str], completions: Sequence[str], *_: Any) -> list[float]:
        return [self.scores[completion] for completion in completions]


class InMemory:
    """The artifacts of a round's label stage."""

    def __init__(self, completions: list[Completion]) -> None:
        self.completions, self.preferences = completions, list[Preference]()

    def read(self, artifact: Artifact, kind: type) -> list[Completion]:
        return self.completions

    def write(self, name: str, rows: list[Preference]) -> None:
        self.preferences = rows

    def base(self, round_number: int) -> int:
        return round_number


class Batches:
    """In the place of a trainer: keeps a round's batches, and trains nothing."""

    def __init__(self) -> None:
        self.step_records: list[dict[str, float]] = []
        self.batches: list[list[TrainingPair]] = []

    def train_round(self, batches: list[list[TrainingPair]], start: TrainingState, *_: Any) -> TrainingState:
        self.batches = batches
        return start


Pairs = list[Preference]
Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Wrong:
    """One thing that is not as it should be, between two stages or in the recipe of one of them."""

    pairs: Callable[[Pairs], Pairs] = lambda pairs: pairs
    inputs: Callable[[Inputs], Inputs] = lambda inputs: inputs
    labels_with: tuple[str, ...] = ()
    trains_with: tuple[str, ...] = ()


class Passage:
    """A design on its way through the stages."""

    def __init__(self, design: Design, load: Callable[..., Recipe], world: World, scratch: Path, wrong: Wrong) -> None:
        self.design, self.world, self.wrong = design, world, wrong
        overrides = (
            f"method.beta={BETA}",
            f"train.steps_per_round={design.steps}",
            f"train.per_device_train_batch_size={design.micro}",
            f"train.gradient_accumulation_steps={design.batch // design.micro}",
            "train.source_grad_norms=never",
            *design.overrides,
        )
        self.recipe = load(*overrides)
        self.label_recipe, self.train_recipe = (
            load(*overrides, *more) for more in (wrong.labels_with, wrong.trains_with)
        )
        self.trainer: PreferenceTrainer = make_trainer(
            world.policy, world.reference.model, self.train_recipe, scratch, lambda: None
        )

    def gradients(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Of each step: the expected gradient of the trainer's loss, and that of the objective."""
        sampler_logps = {
            draw: self.world.logps(draw.sampled_by, draw.prompt).detach().tolist() for draw in self.design.draws
        }
        losses = [torch.zeros((), dtype=torch.float64) for _ in range(self.design.steps)]
        held: set[tuple[tuple[tuple[str, int], ...], ...]] = set()
        for outcome in product(range(3), repeat=len(self.design.draws)):
            drawn = dict(zip(self.design.draws, outcome, strict=True))
            logps = {draw: sampler_logps[draw][response] for draw, response in drawn.items()}
            batches = self.batches([self.completion(draw, response, logps[draw]) for draw, response in drawn.items()])
            for step, batch in enumerate(batches):
                losses[step] = losses[step] + math.exp(math.fsum(logps.values())) * self.loss(batch)
            held.add(tuple(tuple(map(self.place, batch)) for batch in batches))
        steps = held.pop()
        assert not held, "what a step holds must not depend on what was sampled"
        exact = Objective(self.world, self.recipe, self.design)
        return [self.gradient(loss) for loss in losses], [self.gradient(exact.of_step(step)) for step in steps]

    def completion(self, draw: Draw, response: int, logp: float) -> Completion:
        return Completion(
            prompt=f"prompt {draw.prompt}",
            completion=TEXTS[response],
            prompt_ids=PROMPTS[draw.prompt],
            completion_ids=RESPONSES[response],
            logps=[logp],
            finish_reason="stop",
            num_tokens=len(RESPONSES[response]),
            round=draw.round,
            prompt_index=draw.prompt,
            sample_index=draw.sample,
            seed=0,
            policy=draw.sampled_by,
            engine="enumeration",
            sampling={},
            sampled_by="reference" if draw.sampled_by == "reference" else "policy",
        )

    def batches(self, completions: list[Completion]) -> list[list[TrainingPair]]:
        """The round's, of what each round's label stage made of the completions."""
        last = max(completion.round for completion in completions)
        preferences = []
        for number in range(1, last + 1):
            artifacts = InMemory([completion for completion in completions if completion.round == number])
            loaded = SimpleNamespace(
                labeler=lambda name: GivenScores(SCORES[self.design.scores]),
                policy_after=lambda number: self.world.policy,
                reference_for=lambda number: self.world.reference,
                measure=OneMeasure,
            )
            context: Any = (self.label_recipe, number, artifacts, loaded, NoWork(), NoProgress(), print)
            Label().carry_out(Context(*context))
            preferences += artifacts.preferences
        if "offline" in self.recipe.method.sources.in_use():
            preferences.append(OFFLINE)
        batches, start = Batches(), TrainingState(round=last - 1, global_step=0, parent=None)
        train_policy(batches, self.train_recipe, self.wrong.pairs(preferences), start, None)  # type: ignore[arg-type]
        return batches.batches

    def loss(self, batch: list[TrainingPair]) -> torch.Tensor:
        """Of a step, from its micro-batches as the trainer collates and completes them."""
        collate = self.trainer.data_collator
        collate.num_responses = max(2 + len(pair.other_ids) for pair in batch)
        parts = self.trainer.passes(collate(batch))
        assert len(parts) == len(batch) // self.design.micro
        losses = [self.trainer.compute_loss(self.trainer.model, self.wrong.inputs(part)) for part in parts]
        return torch.stack(losses).sum()

    def place(self, pair: TrainingPair) -> tuple[str, int]:
        return list(self.recipe.method.sources.in_use())[pair.source], PROMPTS.index(pair.prompt_ids)

    def gradient(self, value: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(value, list(self.world.models["policy"].parameters()))
        return torch.cat([tensor.flatten() for tensor in found])


def by_rank(pairs: Pairs) -> Pairs:
    """Each prompt's best first, as they were once."""
    return sorted(pairs, key=lambda pair: (pair.prompt_index, -pair.chosen_score, -pair.rejected_score))


def without_others(pairs: Pairs) -> Pairs:
    return [replace(pair, other_ids=[], other_logps=[]) for pair in pairs]


def without_ties(pairs: Pairs) -> Pairs:
    """The first stays if nothing else does: a round needs some pair."""
    return [pair for pair in pairs if pair.label != 0.5] or pairs[:1]


def as_if_nothing_were_shared(pairs: Pairs) -> Pairs:
    return [
        replace(pair, chosen_index=10 * number, rejected_index=10 * number + 1) for number, pair in enumerate(pairs)
    ]


def weighed_by_share(inputs: Inputs) -> Inputs:
    """Right on average alone."""
    share = torch.tensor(1 / 0.3)
    return inputs | {"global_pairs_per_kl": share, "global_pairs_per_optimism": share}


WRONG: list[tuple[str, str, Wrong]] = [
    (CUT, "pairs in the order of rank", Wrong(pairs=by_rank)),
    (CUT, "baselines that share a response", Wrong(pairs=as_if_nothing_were_shared)),
    (CUT, "no bilevel term", Wrong(trains_with=("method.sources.dpr.gradient=0",))),
    (CUT_SECOND, "pairs in the order of rank", Wrong(pairs=by_rank)),
    (CUT_OWN, "no bilevel term", Wrong(trains_with=("method.sources.dpp.gradient=0",))),
    (CUT_OWN, "baselines that share a response", Wrong(pairs=as_if_nothing_were_shared)),
    (TIES, "ties left out", Wrong(pairs=without_ties)),
    (TIES, "pairs in the order of rank", Wrong(pairs=by_rank)),
    (BEST, "no term on the responses that were not chosen", Wrong(pairs=without_others)),
    (BEST_WEIGHED, "weights of the two chosen alone", Wrong(pairs=without_others)),
    (TWICE, "both draws as one of four", Wrong(labels_with=("generate.num_generations=4",))),
    (REPLAY, "weights left out", Wrong(trains_with=("method.importance_weight_cap=null",))),
    (REPLAY, "weights cut at 1", Wrong(trains_with=("method.importance_weight_cap=1",))),
    (SHARES, "KL and optimism by the share", Wrong(inputs=weighed_by_share)),
]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture
def errors(world: World, tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[[str, Wrong], list[float]]:
    """`errors(design, wrong)`: each step's, relative to the largest entry of the exact gradient."""

    def of(design: str, wrong: Wrong) -> list[float]:
        path = Passage(DESIGNS[design], lambda *more: tiny_recipe(tmp_path, *more), world, tmp_path, wrong)
        steps = zip(*path.gradients(), strict=True)
        return [((found - exact).abs().max() / exact.abs().max()).item() for found, exact in steps]

    return of


MANY = {CUT_SECOND}
"""Designs of 3⁶ outcomes."""


def marks(design: str) -> tuple[pytest.MarkDecorator, ...]:
    return (pytest.mark.long,) if design in MANY else ()


@pytest.mark.parametrize("design", [pytest.param(design, marks=marks(design)) for design in DESIGNS])
def test_every_steps_expected_gradient_is_the_objectives(
    errors: Callable[[str, Wrong], list[float]], design: str
) -> None:
    assert max(errors(design, Wrong())) < EXACT


@pytest.mark.parametrize(
    ("design", "wrong"),
    [pytest.param(design, wrong, id=f"{design}: {name}", marks=marks(design)) for design, name, wrong in WRONG],
)
def test_what_is_wrong_is_noticed(errors: Callable[[str, Wrong], list[float]], design: str, wrong: Wrong) -> None:
    assert max(errors(design, wrong)) > NOTICED
