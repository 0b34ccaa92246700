"""The bilevel gradient once more by enumeration, this time through the real trainer and a real model, in float32.

A small Llama with a vocabulary of five writes at most two tokens, so all of its responses can be listed. Every pair
goes through the trainer's loss as a batch of its own; its gradients, averaged with the pairs' probabilities, have to be
those of the enumerated objective.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig

from align_cli.methods.preference import preference_loss, preference_margin
from align_cli.models.load import Policy
from align_cli.models.scoring import pad_batch, response_logps
from align_cli.playground.model import make_word_tokenizer
from align_cli.training.batches import PairCollator, TrainingPair
from align_cli.training.trainer import PreferenceTrainer, SourceTerms

VOCABULARY, PAD, EOS, BETA = 5, 0, 1, 0.5
PROMPT = [2]
RESPONSES = [[EOS], *([first, second] for first in range(VOCABULARY) if first != EOS for second in range(VOCABULARY))]
PAIRS = list(product(range(len(RESPONSES)), repeat=2))


def small_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        initializer_range=0.8,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    return make_word_tokenizer(["a", "b"])


class World:
    """Policy, reference, a reward label for every pair, and a dataset's distribution over pairs."""

    def __init__(self) -> None:
        self.policy, self.reference = small_model(0), small_model(1)
        generator = torch.Generator().manual_seed(2)
        self.labels = torch.rand(len(PAIRS), generator=generator)
        self.dataset = torch.randn(len(PAIRS), generator=generator).softmax(0)
        self.lengths = torch.tensor([len(response) for response in RESPONSES])

    def logps(self, model: LlamaForCausalLM) -> torch.Tensor:
        return response_logps(model, pad_batch([PROMPT] * len(RESPONSES), RESPONSES, PAD))

    def exact(self, source: SourceTerms, loss_type: str) -> dict[str, torch.Tensor]:
        """∇J, everything that depends on the policy included."""
        one, two = torch.tensor(PAIRS).T
        logps = self.logps(self.policy)
        with torch.no_grad():
            reference_logps = self.logps(self.reference)
        ratios = logps - reference_logps
        margins = preference_margin(ratios[one], ratios[two], self.lengths[one], self.lengths[two], loss_type)
        labels = (BETA * (ratios[one] - ratios[two])).sigmoid() if source.policy_labels else self.labels
        forward, backward = (preference_loss(sign * margins, loss_type, BETA) for sign in (1, -1))
        losses = labels * forward + (1 - labels) * backward
        probabilities = (logps[one] + logps[two]).exp() if source.policy_responses else self.dataset
        return self.gradients((probabilities * losses).sum())

    def probabilities(self, source: SourceTerms) -> torch.Tensor:
        one, two = torch.tensor(PAIRS).T
        with torch.no_grad():
            logps = self.logps(self.policy)
        return (logps[one] + logps[two]).exp() if source.policy_responses else self.dataset

    def gradients(self, value: torch.Tensor) -> dict[str, torch.Tensor]:
        names, parameters = zip(*self.policy.named_parameters(), strict=True)
        return dict(zip(names, torch.autograd.grad(value, parameters), strict=True))


def through_trainer(world: World, source: SourceTerms, loss_type: str, folder: Path) -> dict[str, torch.Tensor]:
    args = DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        loss_type=[loss_type],
        bf16=False,
        activation_checkpointing=False,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
    )
    policy = Policy(world.policy, tokenizer(), "policy")
    trainer = PreferenceTrainer(policy, world.reference, [source], args)
    collate: Any = PairCollator(PAD)
    total = torch.zeros(())
    for (one, two), label, probability in zip(PAIRS, world.labels, world.probabilities(source), strict=True):
        pair = TrainingPair(PROMPT, RESPONSES[one], RESPONSES[two], label.item(), 0, 0, 0)
        total = total + probability * trainer.compute_loss(trainer.model, collate([pair]))
    return world.gradients(total)


def largest_relative_error(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    scale = max(gradient.abs().max().item() for gradient in exact.values())
    return max((found[name] - exact[name]).abs().max().item() for name in exact) / scale


SOURCES = {
    "offline": SourceTerms("offline"),
    "ddp": SourceTerms("ddp", 1.0, policy_labels=True),
    "dpp": SourceTerms("dpp", 1.0, policy_responses=True, policy_labels=True),
    "dpr": SourceTerms("dpr", 1.0, policy_responses=True),
}


def test_probabilities_of_all_responses_sum_to_one() -> None:
    assert World().logps(small_model(0)).exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
@pytest.mark.parametrize("source", SOURCES)
def test_the_trainers_expected_gradient_is_the_objectives(source: str, loss_type: str, tmp_path: Path) -> None:
    world = World()
    exact = world.exact(SOURCES[source], loss_type)
    found = through_trainer(world, SOURCES[source], loss_type, tmp_path)
    assert largest_relative_error(found, exact) < 1e-5


@pytest.mark.parametrize("source", ["ddp", "dpp", "dpr"])
def test_without_the_terms_it_is_another_gradient(source: str, tmp_path: Path) -> None:
    world = World()
    exact = world.exact(SOURCES[source], "sigmoid")
    plain = SOURCES[source]._replace(gradient_coefficient=0.0)
    assert largest_relative_error(through_trainer(world, plain, "sigmoid", tmp_path), exact) > 1e-2
