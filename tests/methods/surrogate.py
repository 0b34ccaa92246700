"""The surrogate of every event, through the real `methods/`; and the mutations that comparisons have to notice.

Shapes: as in `enumerated`; R here the responses that carry the term, each pair's counted once a pair.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from enumerated import (
    BETA,
    DESIGNS,
    KL_COEFFICIENT,
    OPTIMISM_COEFFICIENT,
    Events,
    World,
    events_of,
    every_choice,
    world_of,
)

from align_cli.methods.bilevel import (
    importance_weights,
    label_term,
    leave_one_out_baseline,
    policy_labels,
    response_term,
)
from align_cli.methods.kl import sequence_kl
from align_cli.methods.optimism import optimism_term
from align_cli.methods.preference import expected_preference_loss, preference_loss, preference_margin

CONSTANT, EMPTY = 0.9, 0.3
OVER_BATCH, OVER_PROMPT = "leave-one-out over a batch of prompts", "leave-one-out over a prompt's responses"
LEAVE_ONE_OUT = (OVER_BATCH, OVER_PROMPT)


class Case(NamedTuple):
    """A combination that can be trained.

    Args:
        source: three letters.
        labels: `hard`, `soft` or `sampled` by the reward or dataset; `exact` or `drawn` by the policy.
        responses: one of `DESIGNS`.
        baseline: of the response term.
        is_reweighted: whether another policy samples.
        also: what is added: `KL`, `optimism`, or nothing.
        loss_type: `sigmoid`, `ipo` or `hinge`.
    """

    source: str
    labels: str
    responses: str
    baseline: str
    is_reweighted: bool
    also: str
    loss_type: str

    def __str__(self) -> str:
        parts = [
            self.source,
            self.loss_type,
            f"{self.labels} labels",
            self.responses,
            self.baseline,
            "reweighted" if self.is_reweighted else "",
            f"with {self.also}" if self.also else "",
        ]
        return ", ".join(part for part in parts if part)

    @property
    def has_response_term(self) -> bool:
        return "policy" in DESIGNS[self.responses].writers

    @property
    def has_label_term(self) -> bool:
        return self.source in ("ddp", "dpp")

    @property
    def has_plain_gradient(self) -> bool:
        """DPO's expected gradient under the policy's own labels is exactly 0."""
        return not (self.has_label_term and self.loss_type == "sigmoid")

    @property
    def are_labels_drawn(self) -> bool:
        return self.labels in ("drawn", "sampled")

    def world(self) -> World:
        """As large as can be listed: prompts of a batch, draws and drawn labels multiply what can happen."""
        num_draws = len(DESIGNS[self.responses].writers)
        if num_draws == 2:
            return world_of((2, 1) if self.baseline == OVER_BATCH else (3,), 4)
        if self.baseline != OVER_BATCH:
            return world_of((2,), 4 if num_draws == 3 and not self.are_labels_drawn else 3)
        return world_of((1, 1) if self.are_labels_drawn else (2, 1), 3)


class Mutation(NamedTuple):
    """What is done to the surrogate: a part gets a factor, or weights or baselines are made in another way."""

    part: str
    factor: float = 1.0
    way: str = ""


NONE = Mutation("nothing")
MUTATIONS = {
    "plain loss negated": Mutation("plain loss", -1.0),
    "plain loss halved": Mutation("plain loss", 0.5),
    "response term negated": Mutation("response term", -1.0),
    "response term halved": Mutation("response term", 0.5),
    "response term doubled": Mutation("response term", 2.0),
    "response term left out": Mutation("response term", 0.0),
    "label term negated": Mutation("label term", -1.0),
    "label term halved": Mutation("label term", 0.5),
    "label term doubled": Mutation("label term", 2.0),
    "label term left out": Mutation("label term", 0.0),
    "score part of the KL negated": Mutation("score part of the KL", -1.0),
    "score part of the KL halved": Mutation("score part of the KL", 0.5),
    "score part of the KL doubled": Mutation("score part of the KL", 2.0),
    "score part of the KL left out": Mutation("score part of the KL", 0.0),
    "optimism term negated": Mutation("optimism term", -1.0),
    "optimism term halved": Mutation("optimism term", 0.5),
    "optimism term left out": Mutation("optimism term", 0.0),
    "weights inverted": Mutation("weights", way="inverted"),
    "weights left out": Mutation("weights", way="left out"),
    "plain loss not weighted": Mutation("weight of the plain loss", way="left out"),
    "response term not weighted": Mutation("weight of the response term", way="left out"),
    "label term not weighted": Mutation("weight of the label term", way="left out"),
    "KL not weighted": Mutation("weight of the KL", way="left out"),
    "the two of the pair alone carry the term": Mutation("chosen responses", way="two alone"),
    "baseline leaves out the pair alone": Mutation("shared responses", way="pair alone"),
    "baseline keeps the pair itself": Mutation("leave-one-out", way="nothing"),
}
RESPONSE_TERM_WAYS = ("two alone", "pair alone", "nothing")


def present_parts(case: Case) -> set[str]:
    """What of the table can be mutated in a case."""
    design, is_left_out = DESIGNS[case.responses], case.baseline in LEAVE_ONE_OUT
    draws = [draw for pair in design.pairs for draw in pair if design.writers[draw] == "policy"]
    found = {
        "plain loss": case.has_plain_gradient,
        "response term": case.has_response_term,
        "label term": case.has_label_term,
        "score part of the KL": case.also == "KL",
        "optimism term": case.also == "optimism",
        "weights": case.is_reweighted,
        "weight of the plain loss": case.is_reweighted and case.has_plain_gradient,
        "weight of the response term": case.is_reweighted,
        "weight of the label term": case.is_reweighted and case.has_label_term,
        "weight of the KL": case.is_reweighted and case.also == "KL",
        "chosen responses": design.choice != "none",
        "shared responses": is_left_out and len(draws) > len(set(draws)),
        "leave-one-out": is_left_out,
    }
    return {part for part, is_present in found.items() if is_present}


class Surrogate:
    """The surrogate over all events of a case, and its expected gradient."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.world = case.world()
        self.events = self.listed = events_of(self.world, DESIGNS[case.responses])
        self.sampler = self.world.sampler if case.is_reweighted else self.world.theta
        self.probabilities_N = self.world.probabilities(self.events, self.sampler).detach()
        self.labels_NP = self.world.labels(self.events, case.source, case.labels).detach()
        if case.are_labels_drawn:
            self._draw_labels()
        self.logps_R, self.ratios_R = self.world.logps(self.world.theta), self.world.ratios()
        self._compare()

    @cached_property
    def exact_gradient(self) -> torch.Tensor:
        """∇J, by autograd through the enumerated objective and what is added to it."""
        case = self.case
        value = self.world.objective(self.listed, case.source, case.labels, case.loss_type)
        return self.world.gradient(value) + self._added_gradient()

    @cached_property
    def plain_gradient(self) -> torch.Tensor:
        """E[∇ℓ] and what is added."""
        case = self.case
        value = self.world.plain_objective(self.listed, case.source, case.labels, case.loss_type)
        return self.world.gradient(value) + self._added_gradient()

    def _added_gradient(self) -> torch.Tensor:
        if self.case.also == "KL":
            return KL_COEFFICIENT * self.world.gradient(self.world.kl())
        if self.case.also == "optimism":
            return OPTIMISM_COEFFICIENT * self.world.gradient(self.world.mean_log_ratio_of_reference())
        return torch.zeros_like(self.world.theta)

    def expected_gradient(self, coefficient: float, mutation: Mutation = NONE) -> torch.Tensor:
        """The surrogate's gradient, averaged over the events with their probabilities held fixed.

        A gradient is linear in its summands: a factor needs no new pass, and a coefficient is a factor.
        """
        factors = {"response term": coefficient, "label term": coefficient}
        total = torch.zeros_like(self.world.theta)
        for name, gradient in (self._gradients | self._changed_gradients(mutation)).items():
            total = total + (mutation.factor if mutation.part == name else 1.0) * factors.get(name, 1.0) * gradient
        return total

    @cached_property
    def _gradients(self) -> dict[str, torch.Tensor]:
        """The expected gradient of every summand, at coefficient 1."""
        return {name: self._averaged(part_NP, self._way_of(name)) for name, part_NP in self._parts.items()}

    def _way_of(self, part: str) -> str:
        """Optimism is an expectation over the reference, whose responses are draws from it: it has no weight."""
        return "left out" if part == "optimism term" else ""

    def _changed_gradients(self, mutation: Mutation) -> dict[str, torch.Tensor]:
        """Those that are made in another way."""
        if mutation.way in RESPONSE_TERM_WAYS:
            return {"response term": self._averaged(self._response_term(mutation.way))}
        if not mutation.way:
            return {}
        part = mutation.part.removeprefix("weight of the ")
        changed = {
            name: part_NP
            for name, part_NP in self._parts.items()
            if (part == "weights" or part in name) and name != "optimism term"
        }
        return {name: self._averaged(part_NP, mutation.way) for name, part_NP in changed.items()}

    def _averaged(self, values_NP: torch.Tensor, way: str = "") -> torch.Tensor:
        if self.case.is_reweighted and way != "left out":
            values_NP = (1 / self._weights if way == "inverted" else self._weights) * values_NP
        return self.world.gradient((self.probabilities_N * values_NP.mean(1)).sum())

    def _draw_labels(self) -> None:
        """Who wins becomes part of the event, for every pair of the batch."""
        num_events, num_pairs = self.labels_NP.shape
        outcomes_OP = every_choice([torch.tensor([1.0, 0.0], dtype=torch.float64)] * num_pairs)
        drawn_NOP = outcomes_OP.expand(num_events, -1, -1)
        first_wins_NOP = self.labels_NP.unsqueeze(1)
        chances_NO = torch.where(drawn_NOP == 1, first_wins_NOP, 1 - first_wins_NOP).prod(-1)
        self.labels_NP = drawn_NOP.reshape(-1, num_pairs)
        self.probabilities_N = (self.probabilities_N.unsqueeze(1) * chances_NO).reshape(-1)
        draws_ND, chosen_NP, rejected_NP, chances_N, *layout = self.events
        rows = torch.arange(num_events).repeat_interleave(len(outcomes_OP))
        self.events = Events(draws_ND[rows], chosen_NP[rows], rejected_NP[rows], chances_N[rows], *layout)

    def _compare(self) -> None:
        """Margins, labels and losses of all pairs."""
        one, two, loss_type = self.events.chosen_NP, self.events.rejected_NP, self.case.loss_type
        s, lengths = self.ratios_R, self.world.lengths_R
        self.margins_NP = preference_margin(s[one], s[two], lengths[one], lengths[two], loss_type)
        self.logits_NP = BETA * (s[one] - s[two])
        if self.case.labels == "exact":
            self.labels_NP = policy_labels(self.logits_NP)
        self.losses_NP = expected_preference_loss(
            preference_loss(self.margins_NP, loss_type, BETA),
            preference_loss(-self.margins_NP, loss_type, BETA),
            self.labels_NP,
        )

    @cached_property
    def _parts(self) -> dict[str, torch.Tensor]:
        """(N, P) the summands of each pair's value, by the names that mutations give them."""
        parts = {"plain loss": self.losses_NP}
        if self.case.has_response_term:
            parts["response term"] = self._response_term()
        if self.case.has_label_term:
            forward_NP = preference_loss(self.margins_NP, self.case.loss_type, BETA)
            backward_NP = preference_loss(-self.margins_NP, self.case.loss_type, BETA)
            parts["label term"] = label_term(forward_NP, backward_NP, self.labels_NP, self.logits_NP)
        if self.case.also == "KL":
            pathwise_NP, full_NP = (self._kl(gradient) for gradient in ("pathwise", "full"))
            parts["pathwise part of the KL"] = KL_COEFFICIENT * pathwise_NP
            parts["score part of the KL"] = KL_COEFFICIENT * (full_NP - pathwise_NP)
        if self.case.also == "optimism":
            parts["optimism term"] = OPTIMISM_COEFFICIENT * self._optimism()
        return parts

    def _response_term(self, way: str = "") -> torch.Tensor:
        """(N, P) the term of every pair, summed over the policy's responses that the pair depends on."""
        pair_R, draw_R = self._carriers
        losses_NR = self.losses_NP[:, pair_R]
        responses_NR = self.events.draws_ND[:, draw_R]
        terms_NR = response_term(losses_NR, self._baselines(way), self.logps_R[responses_NR])
        if way == "two alone":
            chosen_NR, rejected_NR = self.events.chosen_NP[:, pair_R], self.events.rejected_NP[:, pair_R]
            terms_NR = terms_NR * ((responses_NR == chosen_NR) | (responses_NR == rejected_NR))
        return torch.zeros_like(self.losses_NP).index_add(1, pair_R, terms_NR)

    @cached_property
    def _carriers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(R,) pairs and draws: which of the policy's responses each pair depends on."""
        of_policy_PK = self.events.drawn_by("policy")[self.events.draws_PK]
        pair_R = of_policy_PK.nonzero()[:, 0]
        return pair_R, self.events.draws_PK[of_policy_PK]

    def _baselines(self, way: str) -> torch.Tensor:
        """(N, R) b_i; where it averages a batch, of every batch by itself."""
        pair_R, draw_R = self._carriers
        losses_NP = self.losses_NP.detach()
        if self.case.baseline not in LEAVE_ONE_OUT:
            return torch.full_like(losses_NP[:, pair_R], CONSTANT if self.case.baseline == "constant baseline" else 0.0)
        prompts_P, draws_PK = self.events.prompts_P, self.events.draws_PK
        prompts_R = prompts_P[pair_R]
        if way == "pair alone":
            draws_PK, draw_R = torch.arange(len(prompts_P)).unsqueeze(1), pair_R
        if way == "nothing":
            draw_R = torch.full_like(draw_R, -1)
        return torch.vmap(
            lambda losses_P: leave_one_out_baseline(losses_P, prompts_P, draws_PK, prompts_R, draw_R, EMPTY)
        )(losses_NP)

    @cached_property
    def _weights(self) -> torch.Tensor:
        """(N, P) importance weights over the policy's responses that each pair depends on."""
        pair_R, draw_R = self._carriers
        logps_NP, sampled_NP = (
            torch.zeros_like(self.losses_NP).index_add(1, pair_R, logps_R[self.events.draws_ND[:, draw_R]])
            for logps_R in (self.logps_R, self.world.logps(self.sampler))
        )
        return importance_weights(logps_NP, sampled_NP).weights_B

    def _kl(self, gradient: str) -> torch.Tensor:
        """(N, P) the mean KL of each pair's responses that the policy wrote."""
        token_logps = self.world.token_logps(self.world.theta)
        kl_R = sequence_kl(self.world.token_kl(), token_logps, self.world.mask_RC, gradient)
        pair_R, draw_R = self._carriers
        sums_NP = torch.zeros_like(self.losses_NP).index_add(1, pair_R, kl_R[self.events.draws_ND[:, draw_R]])
        return sums_NP / pair_R.bincount()

    def _optimism(self) -> torch.Tensor:
        """(N, P) the mean log-ratio of each pair's responses that the reference wrote."""
        from_reference_P2 = self.events.drawn_by("reference")[self.events.draws_PK[:, :2]]
        one_NP, two_NP = self.ratios_R[self.events.chosen_NP], self.ratios_R[self.events.rejected_NP]
        from_reference_B2 = from_reference_P2.repeat(len(one_NP), 1)
        return optimism_term(one_NP.reshape(-1), two_NP.reshape(-1), from_reference_B2).view_as(one_NP)
