"""A policy small enough that every response can be listed: four tokens, the last of them EOS, up to three positions.

Exact objectives come from summing over everything that can happen, with its probability as a function of θ. Surrogates
go through the real `methods/` and are averaged over the same events with their probabilities held fixed.

Shapes: R responses, C positions, V tokens, N events.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch

from align_cli.methods.bilevel import importance_weights, label_term, policy_labels, response_term
from align_cli.methods.logprobs import sequence_logps, token_kl, token_logps
from align_cli.methods.preference import expected_preference_loss, preference_loss, preference_margin

VOCABULARY, EOS, POSITIONS = 4, 3, 3
BETA = 0.5

Mutate = Callable[[torch.Tensor], torch.Tensor]


def unchanged(term: torch.Tensor) -> torch.Tensor:
    """The term as it is."""
    return term


class Mutations(NamedTuple):
    """What a test does to a term to see that it would notice."""

    response: Mutate = unchanged
    label: Mutate = unchanged


NO_MUTATION = Mutations()


class Events(NamedTuple):
    """Pairs that can happen: N rows of the two responses, all responses that carry the term, and the reward's label."""

    chosen_N: torch.Tensor
    rejected_N: torch.Tensor
    sampled_NK: torch.Tensor
    labels_N: torch.Tensor


def all_responses() -> list[list[int]]:
    """Every response: it ends with EOS, or at the last position."""
    ended = [[*prefix, EOS] for length in range(POSITIONS) for prefix in product(range(EOS), repeat=length)]
    return ended + [list(tokens) for tokens in product(range(EOS), repeat=POSITIONS)]


class World:
    """A policy θ, a reference, a policy that samples, and a reward, over all responses to one prompt."""

    def __init__(self, loss_type: str, seed: int = 0) -> None:
        self.loss_type = loss_type
        generator = torch.Generator().manual_seed(seed)
        prefixes = [prefix for length in range(POSITIONS) for prefix in product(range(EOS), repeat=length)]
        responses = all_responses()
        self.lengths = torch.tensor([len(response) for response in responses])
        self.mask = (torch.arange(POSITIONS) < self.lengths.unsqueeze(1)).double()
        padded = [response + [0] * (POSITIONS - len(response)) for response in responses]
        self.tokens = torch.tensor(padded)
        self.rows = torch.tensor([[prefixes.index(tuple(tokens[:t])) if t < len(r) else 0 for t in range(POSITIONS)]
                                  for tokens, r in zip(padded, responses, strict=True)])  # fmt: skip
        shape = (len(prefixes), VOCABULARY)
        self.theta = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        self.reference = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.sampler = self.theta.detach() + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.reward = torch.randn(len(responses), generator=generator, dtype=torch.float64)
        self.dataset = torch.randn(len(responses), generator=generator, dtype=torch.float64).softmax(0)
        self.dataset_labels = torch.rand((len(responses),) * 2, generator=generator, dtype=torch.float64)

    def token_logps(self, table: torch.Tensor) -> torch.Tensor:
        """(R, C) log-probabilities of every response's tokens."""
        return token_logps(table[self.rows], self.tokens)

    def logps(self, table: torch.Tensor) -> torch.Tensor:
        """(R,) log-probabilities of every response."""
        return sequence_logps(self.token_logps(table), self.mask)

    def token_kl(self) -> torch.Tensor:
        """(R, C) KL to the reference at every position."""
        return token_kl(self.theta[self.rows], self.reference[self.rows])

    def ratios(self) -> torch.Tensor:
        """(R,) s(y)."""
        return self.logps(self.theta) - self.logps(self.reference)

    def margins(self, events: Events) -> torch.Tensor:
        """(N,) h."""
        one, two, s = events.chosen_N, events.rejected_N, self.ratios()
        return preference_margin(s[one], s[two], self.lengths[one], self.lengths[two], self.loss_type)

    def preference_logits(self, events: Events) -> torch.Tensor:
        """(N,) β(s1 − s2)."""
        s = self.ratios()
        return BETA * (s[events.chosen_N] - s[events.rejected_N])

    def losses(self, events: Events, labels_N: torch.Tensor) -> torch.Tensor:
        """(N,) ℓ̄ with the given labels."""
        return expected_preference_loss(self.margins(events), labels_N, self.loss_type, BETA)

    def gradient(self, value: torch.Tensor) -> torch.Tensor:
        """∇θ of a scalar."""
        return torch.autograd.grad(value, self.theta, retain_graph=True)[0]

    def pairs(self, labels: str) -> Events:
        """All ordered pairs of responses; labelled by the reward (`hard`, `soft`) or as the dataset has it."""
        one, two = torch.tensor(list(product(range(len(self.tokens)), repeat=2))).T
        return Events(one, two, torch.stack([one, two], 1), self.label(one, two, labels))

    def label(self, one: torch.Tensor, two: torch.Tensor, labels: str) -> torch.Tensor:
        """(N,) the probability that the first response wins."""
        if labels == "dataset":
            return self.dataset_labels[one, two]
        difference = self.reward[one] - self.reward[two]
        return difference.sigmoid() if labels == "soft" else (difference.sign() + 1) / 2

    def best_worst_of_three(self) -> Events:
        """All triples of responses; the best against the worst."""
        triples = torch.tensor(list(product(range(len(self.tokens)), repeat=3)))
        rewards = self.reward[triples]
        one = triples.gather(1, rewards.argmax(1, keepdim=True)).squeeze(1)
        two = triples.gather(1, rewards.argmin(1, keepdim=True)).squeeze(1)
        return Events(one, two, triples, self.label(one, two, "hard"))

    def probabilities(self, events: Events, *, of_policy: bool, table: torch.Tensor | None = None) -> torch.Tensor:
        """(N,) how likely each event is, under a policy or in the dataset."""
        if not of_policy:
            return self.dataset[events.sampled_NK].prod(1)
        return self.logps(self.theta if table is None else table)[events.sampled_NK].sum(1).exp()

    def objective(self, events: Events, *, policy_responses: bool, with_policy_labels: bool) -> torch.Tensor:
        """J(θ), by enumeration: everything that depends on θ does so here."""
        labels_N = self.preference_logits(events).sigmoid() if with_policy_labels else events.labels_N
        margins_N = self.margins(events)
        forward = preference_loss(margins_N, self.loss_type, BETA)
        backward = preference_loss(-margins_N, self.loss_type, BETA)
        probabilities = self.probabilities(events, of_policy=policy_responses)
        return (probabilities * (labels_N * forward + (1 - labels_N) * backward)).sum()

    def surrogate(
        self,
        events: Events,
        coefficient: float,
        *,
        policy_responses: bool,
        with_policy_labels: bool,
        baseline: float = 0.0,
        drawn_labels_N: torch.Tensor | None = None,
        weights_from_sampler: bool = False,
        mutations: Mutations = NO_MUTATION,
    ) -> torch.Tensor:
        """(N,) the surrogate of every event, through the real methods."""
        logits_N = self.preference_logits(events)
        labels_N = policy_labels(logits_N) if with_policy_labels else events.labels_N
        labels_N = labels_N if drawn_labels_N is None else drawn_labels_N
        losses_N = self.losses(events, labels_N)
        logps_N = self.logps(self.theta)[events.sampled_NK].sum(1)
        value = losses_N
        if policy_responses:
            term = response_term(losses_N, torch.full_like(losses_N, baseline), logps_N)
            value = value + coefficient * mutations.response(term)
        if with_policy_labels:
            margins_N = self.margins(events)
            forward = preference_loss(margins_N, self.loss_type, BETA)
            backward = preference_loss(-margins_N, self.loss_type, BETA)
            value = value + coefficient * mutations.label(label_term(forward, backward, labels_N, logits_N))
        if weights_from_sampler:
            sampled = self.logps(self.sampler)[events.sampled_NK].sum(1)
            value = importance_weights(logps_N, sampled).weights_B * value
        return value
