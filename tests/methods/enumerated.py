"""A policy small enough that every response can be listed, and every batch of pairs that can happen with it.

Four tokens, the last of them EOS, and up to three positions; fewer where batches would be too many to list. The exact
objective is written out here: it sums over all batches, everything that depends on θ does so, and its loss is a formula
of its own. Nothing in this module comes from `methods/` but the log-probabilities and KL of single tokens.

Shapes: R responses of all prompts, C positions, V tokens; N events, each a whole batch; D draws and P pairs of a batch,
K draws that a pair depends on.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import torch

from align_cli.methods.logprobs import sequence_logps, token_kl, token_logps

BETA, KL_COEFFICIENT, OPTIMISM_COEFFICIENT = 0.5, 0.7, 0.6


class Design(NamedTuple):
    """How a prompt's responses become pairs.

    Args:
        writers: who writes each of them: `policy`, `dataset` or `reference`.
        pairs: the draws that each pair depends on; the first two are compared where there is no choice.
        choice: what is compared of them by the reward: `best_worst`, `best_random`, or the first two.
    """

    writers: tuple[str, ...]
    pairs: tuple[tuple[int, ...], ...] = ((0, 1),)
    choice: str = "none"


DESIGNS = {
    "two of the dataset": Design(("dataset",) * 2),
    "two": Design(("policy",) * 2),
    "all pairs of three": Design(("policy",) * 3, ((0, 1), (0, 2), (1, 2))),
    "two of the three pairs of three": Design(("policy",) * 3, ((0, 1), (0, 2))),
    "best against worst of three": Design(("policy",) * 3, ((0, 1, 2),), "best_worst"),
    "best of three against a random other": Design(("policy",) * 3, ((0, 1, 2),), "best_random"),
    "one against the dataset's": Design(("dataset", "policy")),
    "three against the dataset's": Design(("dataset", *("policy",) * 3), ((0, 1), (0, 2), (0, 3))),
    "one against the reference's": Design(("policy", "reference")),
}


class Events(NamedTuple):
    """Everything that can happen in a batch, one row each; and what is the same in all rows.

    Args:
        draws_ND: the responses.
        chosen_NP: the response that stands first in each pair.
        rejected_NP: the one that stands second.
        chances_N: the probability of random choices between responses.
        writers_D: who writes each draw.
        prompts_P: the prompt of each pair.
        draws_PK: the draws that each pair depends on.
    """

    draws_ND: torch.Tensor
    chosen_NP: torch.Tensor
    rejected_NP: torch.Tensor
    chances_N: torch.Tensor
    writers_D: tuple[str, ...]
    prompts_P: torch.Tensor
    draws_PK: torch.Tensor

    def drawn_by(self, writer: str) -> torch.Tensor:
        """(D,) whether a draw is that writer's."""
        return torch.tensor([name == writer for name in self.writers_D])


def every_choice(choices: list[torch.Tensor]) -> torch.Tensor:
    """All ways of taking one of each, one row each."""
    return torch.cartesian_prod(*choices).view(-1, len(choices))


class World:
    """A policy θ, a reference, a policy that samples, a reward and a dataset, over all responses to some prompts.

    Args:
        positions: the longest response to each prompt.
        num_tokens: size of the vocabulary, EOS included.
        seed: of everything.
    """

    def __init__(self, positions: tuple[int, ...] = (3,), num_tokens: int = 4, seed: int = 0) -> None:
        words, eos = range(num_tokens - 1), num_tokens - 1
        prefixes = [
            (prompt, prefix)
            for prompt, most in enumerate(positions)
            for length in range(most)
            for prefix in product(words, repeat=length)
        ]
        ended = [(prompt, (*prefix, eos)) for prompt, prefix in prefixes]
        cut = [(prompt, tokens) for prompt, most in enumerate(positions) for tokens in product(words, repeat=most)]
        responses = ended + cut
        width = max(positions)
        self.num_prompts = len(positions)
        self.prompts_R = torch.tensor([prompt for prompt, _ in responses])
        self.lengths_R = torch.tensor([len(tokens) for _, tokens in responses])
        self.mask_RC = (torch.arange(width) < self.lengths_R.unsqueeze(1)).double()
        self.tokens_RC = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for _, tokens in responses])
        place = {prefix: row for row, prefix in enumerate(prefixes)}
        self.rows_RC = torch.tensor(
            [[place.get((prompt, tokens[:t]), 0) for t in range(width)] for prompt, tokens in responses]
        )
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.theta = normal(len(prefixes), num_tokens).requires_grad_()
        self.reference = normal(len(prefixes), num_tokens)
        self.sampler = self.theta.detach() + 0.5 * normal(len(prefixes), num_tokens)
        self.reward_R = normal(len(responses))
        self.dataset_R = torch.zeros(len(responses), dtype=torch.float64)
        for prompt in range(self.num_prompts):
            of_prompt = self.prompts_R == prompt
            self.dataset_R[of_prompt] = normal(int(of_prompt.sum())).softmax(0)
        self.dataset_labels_RR = normal(len(responses), len(responses)).sigmoid()

    def token_logps(self, table: torch.Tensor) -> torch.Tensor:
        """(R, C) log-probabilities of every response's tokens."""
        return token_logps(table[self.rows_RC], self.tokens_RC)

    def logps(self, table: torch.Tensor) -> torch.Tensor:
        """(R,) log-probabilities of every response."""
        return sequence_logps(self.token_logps(table), self.mask_RC)

    def token_kl(self) -> torch.Tensor:
        """(R, C) KL to the reference at every position."""
        return token_kl(self.theta[self.rows_RC], self.reference[self.rows_RC])

    def ratios(self) -> torch.Tensor:
        """(R,) s(y)."""
        return self.logps(self.theta) - self.logps(self.reference)

    def gradient(self, value: torch.Tensor) -> torch.Tensor:
        """∇θ of a scalar."""
        return torch.autograd.grad(value, self.theta, retain_graph=True)[0]

    def events(self, design: Design) -> Events:
        """All batches that hold every prompt once."""
        prompts = [self._prompt_events(design, prompt) for prompt in range(self.num_prompts)]
        picks = every_choice([torch.arange(len(chances_N)) for *_, chances_N in prompts]).T
        draws, chosen, rejected, chances = zip(
            *([part[pick] for part in parts] for parts, pick in zip(prompts, picks, strict=True)), strict=True
        )
        num_draws = len(design.writers)
        return Events(
            torch.cat(draws, 1),
            torch.cat(chosen, 1),
            torch.cat(rejected, 1),
            torch.stack(chances).prod(0),
            design.writers * self.num_prompts,
            torch.arange(self.num_prompts).repeat_interleave(len(design.pairs)),
            torch.cat([torch.tensor(design.pairs) + num_draws * prompt for prompt in range(self.num_prompts)]),
        )

    def _prompt_events(self, design: Design, prompt: int) -> tuple[torch.Tensor, ...]:
        """Draws, chosen, rejected and chances of all events of one prompt."""
        responses = (self.prompts_R == prompt).nonzero().squeeze(1)
        draws_ND = every_choice([responses] * len(design.writers))
        chances_N = torch.ones(len(draws_ND), dtype=torch.float64)
        if design.choice == "none":
            one_P, two_P = (list(draws) for draws in zip(*((pair[0], pair[1]) for pair in design.pairs), strict=True))
            return draws_ND, draws_ND[:, one_P], draws_ND[:, two_P], chances_N
        order_ND = self.reward_R[draws_ND].argsort(dim=1, descending=True, stable=True)
        ranked_ND = draws_ND.gather(1, order_ND)
        if design.choice == "best_worst":
            return draws_ND, ranked_ND[:, :1], ranked_ND[:, -1:], chances_N
        num_others = ranked_ND.shape[1] - 1
        return (
            draws_ND.repeat(num_others, 1),
            ranked_ND[:, :1].repeat(num_others, 1),
            ranked_ND[:, 1:].T.reshape(-1, 1),
            chances_N.repeat(num_others) / num_others,
        )

    def probabilities(self, events: Events, policy: torch.Tensor) -> torch.Tensor:
        """(N,) how likely each event is where that policy writes the policy's draws."""
        by_writer = {
            "policy": self.logps(policy).exp(),
            "dataset": self.dataset_R,
            "reference": self.logps(self.reference).exp(),
        }
        draws = [by_writer[writer][events.draws_ND[:, draw]] for draw, writer in enumerate(events.writers_D)]
        return torch.stack(draws).prod(0) * events.chances_N

    def loss_by_hand(self, events: Events, loss_type: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, P) ℓ(h) and ℓ(−h), written out from the papers."""
        s_R = self.ratios() / self.lengths_R if loss_type == "ipo" else self.ratios()
        h_NP = s_R[events.chosen_NP] - s_R[events.rejected_NP]
        both = (h_NP, -h_NP)
        if loss_type == "sigmoid":
            one, two = ((1 + (-BETA * h).exp()).log() for h in both)
        elif loss_type == "ipo":
            one, two = ((h - 1 / (2 * BETA)) ** 2 for h in both)
        else:
            one, two = ((1 - BETA * h).clamp(min=0) for h in both)
        return one, two

    def labels(self, events: Events, source: str, labels: str) -> torch.Tensor:
        """(N, P) the probability that the first response wins; with gradient where it is the policy's."""
        one, two = events.chosen_NP, events.rejected_NP
        if source in ("ddp", "dpp"):
            s_R = self.ratios()
            return (BETA * (s_R[one] - s_R[two])).sigmoid()
        if source == "dmd" or (source == "offline" and labels == "hard"):
            return torch.ones(one.shape, dtype=torch.float64)
        if source == "offline":
            return self.dataset_labels_RR[one, two]
        difference_NP = self.reward_R[one] - self.reward_R[two]
        return (difference_NP.sign() + 1) / 2 if labels == "hard" else difference_NP.sigmoid()

    def objective(self, events: Events, source: str, labels: str, loss_type: str) -> torch.Tensor:
        """J(θ): a pair's expected loss, the mean of a batch's pairs."""
        first_wins_NP = self.labels(events, source, labels)
        forward_NP, backward_NP = self.loss_by_hand(events, loss_type)
        losses_N = (first_wins_NP * forward_NP + (1 - first_wins_NP) * backward_NP).mean(1)
        return (self.probabilities(events, self.theta) * losses_N).sum()

    def plain_objective(self, events: Events, source: str, labels: str, loss_type: str) -> torch.Tensor:
        """The same with responses and labels held fixed: its gradient is E[∇ℓ]."""
        first_wins_NP = self.labels(events, source, labels).detach()
        forward_NP, backward_NP = self.loss_by_hand(events, loss_type)
        losses_N = (first_wins_NP * forward_NP + (1 - first_wins_NP) * backward_NP).mean(1)
        return (self.probabilities(events, self.theta).detach() * losses_N).sum()

    def kl(self) -> torch.Tensor:
        """KL(πθ ‖ π_ref) over whole responses, the mean of the prompts."""
        return (self.logps(self.theta).exp() * self.ratios()).sum() / self.num_prompts

    def mean_log_ratio_of_reference(self) -> torch.Tensor:
        """E[s(y)] over responses of the reference, the mean of the prompts."""
        return (self.logps(self.reference).exp() * self.ratios()).sum() / self.num_prompts


@cache
def world_of(positions: tuple[int, ...], num_tokens: int) -> World:
    """The same world for all that ask for its size."""
    return World(positions, num_tokens)


@cache
def events_of(world: World, design: Design) -> Events:
    """Its events, listed once."""
    return world.events(design)
