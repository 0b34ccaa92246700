"""The bilevel gradient once more by enumeration, this time through the real trainer and a real model, in float32.

A small Llama with a vocabulary of four writes at most two tokens, so all of its responses can be listed. Everything
that can happen goes through the trainer's loss; the pairs' gradients, averaged with their probabilities under whatever
sampled them, have to be those of the enumerated objective, which is computed in float64.

Listed pairs of one expectation are no batch that could be drawn: they share prompt and responses, so that none is
another's baseline and all have the same. Baselines get batches of their own, one of everything that can be drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from small_llama import small_llama
from transformers import LlamaForCausalLM
from trl import DPOConfig

from align_cli.methods.preference import preference_loss, preference_margin
from align_cli.models.adapters import AdaptedModel
from align_cli.models.load import Policy
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.playground.model import make_word_tokenizer
from align_cli.recipe.sections.lora import LoraSection
from align_cli.recipe.sections.policy import PolicySection
from align_cli.training.batches import TrainingPair
from align_cli.training.checkpoints import TrainingState
from align_cli.training.collated import PairCollator
from align_cli.training.figures import Figures
from align_cli.training.objective import Objective, SourceTerms
from align_cli.training.trainer import PreferenceTrainer

VOCABULARY, PAD, EOS, BETA, KL = 4, 0, 1, 0.5, 1.0
EXACT, NOTICED = 1e-5, 1e-2
LOSS_TYPES = ("sigmoid", "ipo", "hinge")
TWO, BEST_WORST = "two", "best against worst of three"

SOURCES = {
    "offline": SourceTerms("offline"),
    "ddp": SourceTerms("ddp", 1.0, policy_labels=True),
    "dpp": SourceTerms("dpp", 1.0, policy_responses=True, policy_labels=True),
    "dpr": SourceTerms("dpr", 1.0, policy_responses=True),
    "dmd": SourceTerms("dmd", 1.0, policy_responses=True),
}
OF_POLICY = {
    "offline": (False, False),
    "ddp": (False, False),
    "dpp": (True, True),
    "dpr": (True, True),
    "dmd": (False, True),
}


class Case(NamedTuple):
    """What goes through the trainer; another policy samples where it is reweighted."""

    source: str
    responses: str
    is_reweighted: bool
    has_kl: bool
    loss_type: str

    def __str__(self) -> str:
        parts = [self.source, self.loss_type, self.responses]
        return ", ".join([*parts, *["reweighted"] * self.is_reweighted, *["with KL"] * self.has_kl])


# source, responses, as drawn and reweighted, without and with the full KL; all with every loss.
TABLE = [
    ("offline", TWO, (False,), (False,)),
    ("ddp", TWO, (False,), (False,)),
    ("dpp", TWO, (False, True), (False, True)),
    ("dpr", TWO, (False, True), (False, True)),
    ("dmd", TWO, (False, True), (False, True)),
    ("dpp", BEST_WORST, (False, True), (False,)),
    ("dpr", BEST_WORST, (False, True), (False,)),
]
CASES = [
    Case(source, responses, is_reweighted, has_kl, loss_type)
    for source, responses, weights, anchors in TABLE
    for is_reweighted in weights
    for has_kl in anchors
    for loss_type in LOSS_TYPES
]

MUTATIONS: dict[str, Callable[[Objective], Objective]] = {
    "coefficient left out": lambda objective: with_terms(objective, gradient_coefficient=0.0),
    "coefficient negated": lambda objective: with_terms(objective, gradient_coefficient=-1.0),
    "KL left out": lambda objective: replaced(objective, kl_coefficient=0.0),
    "KL negated": lambda objective: replaced(objective, kl_coefficient=-KL),
    "KL pathwise": lambda objective: replaced(objective, kl_gradient="pathwise"),
    "weights left out": lambda objective: replaced(objective, importance_weight_cap=None),
}


def with_terms(objective: Objective, **changes: float) -> Objective:
    return replaced(objective, sources=tuple(source._replace(**changes) for source in objective.sources))


def replaced(objective: Objective, **changes: Any) -> Objective:
    return Objective(**{**vars(objective), **changes})


def mutations(case: Case) -> list[str]:
    """Those of what a case has."""
    names = ["coefficient left out", "coefficient negated"] if SOURCES[case.source].gradient_coefficient else []
    names += [name for name in MUTATIONS if name.startswith("KL") and case.has_kl]
    return [*names, *["weights left out"] * case.is_reweighted]


def small_model(seed: int) -> LlamaForCausalLM:
    return small_llama(seed, VOCABULARY, pad_token_id=PAD, eos_token_id=EOS)


class World:
    """A policy, a reference, a policy that samples, a reward, a dataset: all over every response to a prompt."""

    def __init__(self, num_tokens: int = 2) -> None:
        tokens = range(VOCABULARY)
        ended = [[EOS]] if num_tokens == 2 else []
        firsts = [token for token in tokens if token != EOS or num_tokens == 1]
        rest = list(product(tokens, repeat=num_tokens - 1))
        self.responses = ended + [[first, *others] for first in firsts for others in rest]
        self.prompt = [2]
        self.policy, self.reference, self.sampler = (small_model(seed) for seed in (0, 1, 2))
        self.exact_policy, self.exact_reference = (small_model(seed).double() for seed in (0, 1))
        generator = torch.Generator().manual_seed(3)
        number = len(self.responses)
        self.rewards = torch.randn(number, generator=generator)
        self.labels = torch.rand((number, number), generator=generator)
        self.dataset = torch.randn(number, generator=generator).double().softmax(0)
        self.lengths = torch.tensor([len(response) for response in self.responses])

    def logps(self, model: LlamaForCausalLM) -> torch.Tensor:
        """Of every response."""
        return response_logps(model, pad_batch([self.prompt] * len(self.responses), self.responses, PAD))

    def ratios(self) -> torch.Tensor:
        """s(y) in float64, with gradient."""
        with torch.no_grad():
            reference = self.logps(self.exact_reference)
        return self.logps(self.exact_policy) - reference

    def events(self, responses: str) -> torch.Tensor:
        """(N, K) all draws: the first and the second of the pair, then the others."""
        number = range(len(self.responses))
        if responses == TWO:
            return torch.tensor(list(product(number, repeat=2)))
        draws = torch.tensor(list(product(number, repeat=3)))
        ranked = draws.gather(1, self.rewards[draws].argsort(dim=1, descending=True, stable=True))
        return ranked[:, [0, 2, 1]]

    def given_labels(self, case: Case, events: torch.Tensor) -> torch.Tensor:
        """The reward's or the dataset's: hard where best and worst are compared, and for mixed pairs."""
        labels = self.labels[events[:, 0], events[:, 1]]
        return labels if case.responses == TWO and case.source != "dmd" else torch.ones_like(labels)

    def losses(self, case: Case, events: torch.Tensor) -> torch.Tensor:
        """(N,) the expected loss of each pair in float64; everything that depends on the policy does so."""
        one, two, s = events[:, 0], events[:, 1], self.ratios()
        labels = self.given_labels(case, events).double()
        if SOURCES[case.source].policy_labels:
            labels = (BETA * (s[one] - s[two])).sigmoid()
        margins = preference_margin(s[one], s[two], self.lengths[one], self.lengths[two], case.loss_type)
        forward, backward = (preference_loss(sign * margins, case.loss_type, BETA) for sign in (1, -1))
        return labels * forward + (1 - labels) * backward

    def probabilities(self, case: Case, events: torch.Tensor, model: LlamaForCausalLM) -> torch.Tensor:
        """(N,) of the events where that model is the policy; with gradient if it has one."""
        policy = self.logps(model).double().exp()
        of_policy = [*OF_POLICY[case.source], True][: events.shape[1]]
        return torch.stack(
            [(policy if mine else self.dataset)[draw] for mine, draw in zip(of_policy, events.T, strict=True)]
        ).prod(0)

    def exact_gradient(self, case: Case) -> torch.Tensor:
        """∇J, and ∇KL where it is added."""
        events = self.events(case.responses)
        value = (self.probabilities(case, events, self.exact_policy) * self.losses(case, events)).sum()
        if case.has_kl:
            value = value + KL * (self.logps(self.exact_policy).exp() * self.ratios()).sum()
        return flat(torch.autograd.grad(value, trained(self.exact_policy)))


class AdapterWorld(World):
    """The same with adapters of one base: the policy's is trained, the reference's and the sampler's are frozen."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.policy.save_pretrained(folder)
        make_word_tokenizer(["a"]).save_pretrained(folder)
        section = LoraSection(rank=2, alpha=4)
        adapted = AdaptedModel(PolicySection(model_name_or_path=str(folder), lora=section), 0)
        torch.manual_seed(4)
        policies = adapted.policy(None), adapted.frozen(None), adapted.frozen(None)
        for name, tensor in adapted.peft.named_parameters():
            if "lora_" in name:
                tensor.data = 0.5 * torch.randn_like(tensor)
        # Frozen policies hold their adapters.
        self.policies, (self.policy, self.reference, self.sampler) = policies, (each.model for each in policies)
        self.exact_policy, self.exact_reference = (self.exact(adapted, policies[number].adapter) for number in range(2))

    def exact(self, adapted: AdaptedModel, adapter: str) -> Any:
        """A copy in float64 of the base with this adapter."""
        whole = copy.deepcopy(adapted.peft).double()
        whole.set_adapter(adapter)
        return whole.get_base_model()


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(gradients: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients]).double()


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found - exact).abs().max() / exact.abs().max()).item()


def objective_of(case: Case) -> Objective:
    kl_coefficient = KL if case.has_kl else 0.0
    cap = 1e9 if case.is_reweighted else None
    source = SOURCES[case.source]
    return Objective((source,), case.loss_type, BETA, kl_coefficient=kl_coefficient, importance_weight_cap=cap)


def make_trainer(world: World, objective: Objective, folder: Path, **arguments: Any) -> PreferenceTrainer:
    args = DPOConfig(
        output_dir=str(folder),
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **arguments,
    )
    policy = Policy(world.policy, make_word_tokenizer(["a"]), "policy")
    return PreferenceTrainer(policy, world.reference, objective, args, pairs_per_pass=10**6)


def training_pairs(world: World, case: Case, sampled_logps: torch.Tensor, source: int = 0) -> list[TrainingPair]:
    """All events as pairs; all of one prompt and the same responses, so that none is another's baseline."""
    events = world.events(case.responses)
    return [
        TrainingPair(
            world.prompt,
            *(world.responses[draw] for draw in draws[:2]),
            label=label,
            source=source,
            pair_id=index,
            prompt_id=0,
            other_ids=tuple(world.responses[draw] for draw in draws[2:]),
            sampled_logp=sampled_logp,
            response_ids=tuple(range(len(draws))),
            of_policy=OF_POLICY[case.source],
        )
        for index, (draws, label, sampled_logp) in enumerate(
            zip(events.tolist(), world.given_labels(case, events).tolist(), sampled_logps.tolist(), strict=True)
        )
    ]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@cache
def exact_gradient(world: World, case: Case) -> torch.Tensor:
    return world.exact_gradient(case._replace(is_reweighted=False))


@pytest.fixture(scope="module")
def trainer(world: World, tmp_path_factory: pytest.TempPathFactory) -> PreferenceTrainer:
    """One for all: each DPOTrainer wraps the model once more. Its objective is exchanged."""
    return make_trainer(world, objective_of(CASES[0]), tmp_path_factory.mktemp("trainer"))


@cache
def collated(world: World, case: Case) -> list[tuple[torch.Tensor, Any]]:
    """All events in chunks: the probabilities under what samples them, and what the trainer gets."""
    events, sampler = world.events(case.responses), world.sampler if case.is_reweighted else world.policy
    of_policy = torch.tensor([*OF_POLICY[case.source], True][: events.shape[1]])
    with torch.no_grad():
        probabilities = world.probabilities(case, events, sampler)
        sampled_logps = (world.logps(sampler)[events] * of_policy).sum(1)
    pairs = training_pairs(world, case, sampled_logps)
    starts, collate = range(0, len(pairs), 500), PairCollator(PAD)
    return [(probabilities[start : start + 500], collate(pairs[start : start + 500])) for start in starts]


def through_trainer(trainer: PreferenceTrainer, world: World, case: Case, objective: Objective) -> torch.Tensor:
    """The gradient of the trainer's values, averaged over the events with the probabilities of what sampled them."""
    total, trainer.objective = torch.zeros((), dtype=torch.float64), objective
    for probabilities, inputs in collated(world, case._replace(has_kl=False, loss_type="any")):
        (step,) = trainer.passes(dict(inputs))
        total = total + (probabilities * trainer._values(objective, trainer.model, step, Figures())).sum()
    return flat(torch.autograd.grad(total, trained(world.policy)))


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_probabilities_of_all_responses_sum_to_one(num_tokens: int) -> None:
    world = World(num_tokens)
    assert world.logps(world.exact_policy).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_trainers_expected_gradient_is_the_objectives(trainer: PreferenceTrainer, world: World, case: Case) -> None:
    found = through_trainer(trainer, world, case, objective_of(case))
    assert relative_error(found, exact_gradient(world, case)) < EXACT


class TestAdapters:
    @pytest.fixture(scope="class")
    def world(self, tmp_path_factory: pytest.TempPathFactory) -> World:
        return AdapterWorld(tmp_path_factory.mktemp("adapters"))

    @pytest.fixture(scope="class")
    def trainer(self, world: World, tmp_path_factory: pytest.TempPathFactory) -> PreferenceTrainer:
        return make_trainer(world, objective_of(CASES[0]), tmp_path_factory.mktemp("trainer"))

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_the_trainers_expected_gradient_is_the_objectives(
        self, trainer: PreferenceTrainer, world: World, case: Case
    ) -> None:
        found = through_trainer(trainer, world, case, objective_of(case))
        assert relative_error(found, exact_gradient(world, case)) < EXACT


@pytest.mark.parametrize(
    ("case", "mutation"),
    [pytest.param(case, name, id=f"{case}: {name}") for case in CASES for name in mutations(case)],
)
def test_what_is_changed_is_noticed(trainer: PreferenceTrainer, world: World, case: Case, mutation: str) -> None:
    found = through_trainer(trainer, world, case, MUTATIONS[mutation](objective_of(case)))
    assert relative_error(found, exact_gradient(world, case)) > NOTICED


class TestOneStep:
    """A whole optimizer step on every source at once, in micro-batches: what the weights move by is the gradient.

    Enumeration is sampling from the uniform distribution over responses, and the importance weights correct for it.
    """

    RATE = 100.0

    def moved_by(self, objective: Objective, folder: Path) -> torch.Tensor:
        world = World()
        batch, num_responses = [], len(world.responses)
        for position, name in enumerate(SOURCES):
            case = Case(name, TWO, True, True, objective.loss_type)
            num_drawn = sum(OF_POLICY[name]) * torch.tensor(float(num_responses)).log()
            batch += training_pairs(world, case, -num_drawn.expand(num_responses**2), position)
        trainer = make_trainer(
            world,
            objective,
            folder,
            max_steps=1,
            optim="sgd",
            learning_rate=self.RATE,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            per_device_train_batch_size=len(batch),
            logging_steps=1,
        )
        trainer.pairs_per_pass = num_responses
        before = flat([parameter.detach().clone() for parameter in world.policy.parameters()])
        trainer.train_round([batch], TrainingState(round=0, global_step=0, parent=None))
        return (before - flat([parameter.detach() for parameter in world.policy.parameters()])) / self.RATE

    def exact(self, loss_type: str) -> torch.Tensor:
        """The mean of the sources' gradients, with a dataset that holds every response once, and the KL's."""
        world = World()
        world.dataset = torch.full_like(world.dataset, 1 / len(world.dataset))
        plain = [world.exact_gradient(Case(name, TWO, False, False, loss_type)) for name in SOURCES]
        with_kl = world.exact_gradient(Case("dpr", TWO, False, True, loss_type))
        return torch.stack(plain).mean(0) + with_kl - plain[list(SOURCES).index("dpr")]

    def objective(self, loss_type: str) -> Objective:
        return Objective(tuple(SOURCES.values()), loss_type, BETA, kl_coefficient=KL, importance_weight_cap=1e9)

    @pytest.mark.parametrize("loss_type", LOSS_TYPES)
    def test_it_follows_the_gradient_of_the_mixture(self, loss_type: str, tmp_path: Path) -> None:
        found = self.moved_by(self.objective(loss_type), tmp_path)
        assert relative_error(found, self.exact(loss_type)) < EXACT

    @pytest.mark.parametrize("mutation", MUTATIONS)
    def test_what_is_changed_is_noticed(self, mutation: str, tmp_path: Path) -> None:
        found = self.moved_by(MUTATIONS[mutation](self.objective("ipo")), tmp_path)
        assert relative_error(found, self.exact("ipo")) > NOTICED


# What a batch holds: the prompt of each pair, and which of the batch's draws stand in it.
BATCHES = {
    "pairs of two prompts": ((0, 0, 1), (1, 2, 3)),
    "all pairs of three responses": ((0, 0, 1), (0, 0, 2), (0, 1, 2)),
}


TWO_PROMPTS, THREE_RESPONSES = BATCHES


class TestBaselines:
    """Every batch that can be drawn is a step's batch of its own, with the trainer's own baselines."""

    @pytest.fixture(scope="class")
    def worlds(self) -> list[World]:
        """Two prompts to the same models; responses of one token, so that all batches can be listed."""
        worlds = [World(num_tokens=1)] * 2
        worlds[1] = copy.copy(worlds[0])
        worlds[1].prompt = [3, 2]
        return worlds

    @pytest.fixture(scope="class")
    def trainer(self, worlds: list[World], tmp_path_factory: pytest.TempPathFactory) -> PreferenceTrainer:
        return make_trainer(worlds[0], objective_of(CASES[0]), tmp_path_factory.mktemp("baselines"))

    def case(self, loss_type: str) -> Case:
        return Case("dpr", TWO, False, False, loss_type)

    def exact(self, worlds: list[World], design: str, loss_type: str) -> torch.Tensor:
        """The mean over the batch's pairs, each of which is two independent draws."""
        gradients = [worlds[prompt].exact_gradient(self.case(loss_type)) for prompt, *_ in BATCHES[design]]
        return torch.stack(gradients).mean(0)

    def found(
        self,
        trainer: PreferenceTrainer,
        worlds: list[World],
        design: str,
        objective: Objective,
        knows_responses: bool = True,
        knows_sampling: bool = False,
    ) -> torch.Tensor:
        trainer.objective = objective
        # As if an older policy had sampled: a baseline that depends on no weights may be of any.
        sampled = [world.logps(world.sampler).tolist() for world in worlds]
        pairs = BATCHES[design]
        prompt_of = {draw: prompt for prompt, *draws in pairs for draw in draws}
        policies = [world.logps(world.policy).detach().double().exp() for world in worlds]
        collate, total = PairCollator(PAD), torch.zeros((), dtype=torch.float64)
        for drawn in product(range(len(worlds[0].responses)), repeat=len(prompt_of)):
            probability = torch.stack([policies[prompt_of[draw]][drawn[draw]] for draw in prompt_of]).prod()
            batch = [
                TrainingPair(
                    worlds[prompt].prompt,
                    worlds[prompt].responses[drawn[one]],
                    worlds[prompt].responses[drawn[two]],
                    worlds[prompt].labels[drawn[one], drawn[two]].item(),
                    source=0,
                    pair_id=index,
                    prompt_id=prompt,
                    response_ids=(one, two) if knows_responses else (),
                    policy_logps=(sampled[prompt][drawn[one]], sampled[prompt][drawn[two]]) if knows_sampling else None,
                )
                for index, (prompt, one, two) in enumerate(pairs)
            ]
            trainer.know([batch])
            (inputs,) = trainer.passes(collate(batch))
            assert ("global_loss" in inputs) == knows_sampling
            total = total + probability * trainer.compute_loss(trainer.model, inputs)
        return flat(torch.autograd.grad(total, list(worlds[0].policy.parameters())))

    @pytest.mark.parametrize(
        ("design", "loss_type"),
        [(TWO_PROMPTS, "sigmoid"), *((THREE_RESPONSES, loss_type) for loss_type in LOSS_TYPES)],
    )
    def test_leave_one_out_keeps_the_gradient_exact(
        self, trainer: PreferenceTrainer, worlds: list[World], design: str, loss_type: str
    ) -> None:
        found = self.found(trainer, worlds, design, objective_of(self.case(loss_type)))
        assert relative_error(found, self.exact(worlds, design, loss_type)) < EXACT

    @pytest.mark.parametrize(
        ("design", "loss_type"),
        [(TWO_PROMPTS, "sigmoid"), *((THREE_RESPONSES, loss_type) for loss_type in LOSS_TYPES)],
    )
    def test_losses_at_sampling_time_keep_it_exact_too(
        self, trainer: PreferenceTrainer, worlds: list[World], design: str, loss_type: str
    ) -> None:
        found = self.found(trainer, worlds, design, objective_of(self.case(loss_type)), knows_sampling=True)
        assert relative_error(found, self.exact(worlds, design, loss_type)) < EXACT

    @pytest.mark.parametrize("loss_type", LOSS_TYPES)
    def test_losses_at_sampling_time_of_pairs_that_share_a_response_are_noticed(
        self, trainer: PreferenceTrainer, worlds: list[World], loss_type: str
    ) -> None:
        objective = objective_of(self.case(loss_type))
        found = self.found(trainer, worlds, THREE_RESPONSES, objective, knows_responses=False, knows_sampling=True)
        assert relative_error(found, self.exact(worlds, THREE_RESPONSES, loss_type)) > NOTICED

    @pytest.mark.parametrize(
        ("design", "mutation"),
        [
            (TWO_PROMPTS, "coefficient left out"),
            (THREE_RESPONSES, "coefficient left out"),
            (THREE_RESPONSES, "coefficient negated"),
        ],
    )
    def test_what_is_changed_is_noticed(
        self, trainer: PreferenceTrainer, worlds: list[World], design: str, mutation: str
    ) -> None:
        objective = MUTATIONS[mutation](objective_of(self.case("sigmoid")))
        found = self.found(trainer, worlds, design, objective)
        assert relative_error(found, self.exact(worlds, design, "sigmoid")) > NOTICED

    @pytest.mark.parametrize("loss_type", LOSS_TYPES)
    def test_pairs_that_do_not_say_what_they_share_are_noticed(
        self, trainer: PreferenceTrainer, worlds: list[World], loss_type: str
    ) -> None:
        """Then the prompt's other pairs with y_i stay in its baseline."""
        objective = objective_of(self.case(loss_type))
        found = self.found(trainer, worlds, THREE_RESPONSES, objective, knows_responses=False)
        assert relative_error(found, self.exact(worlds, THREE_RESPONSES, loss_type)) > NOTICED
