"""The whole method against enumeration: at coefficient 1 the surrogate's expected gradient is the bilevel gradient.

Every response of a small policy is listed. The exact gradient comes from autograd through the enumerated objective; the
surrogate goes through the real `methods/`. Each comparison is repeated with its terms mutated, and then has to fail.
"""

from __future__ import annotations

import pytest
import torch
from enumerated import Events, Mutations, World

from align_cli.methods.bilevel import leave_one_out_baseline, response_term
from align_cli.methods.kl import sequence_kl

LOSS_TYPES = ["sigmoid", "ipo", "hinge"]
EXACT = {"rtol": 1e-10, "atol": 1e-12}

SOURCES = {
    "offline": {"policy_responses": False, "with_policy_labels": False},
    "ddp": {"policy_responses": False, "with_policy_labels": True},
    "dpp": {"policy_responses": True, "with_policy_labels": True},
    "dpr": {"policy_responses": True, "with_policy_labels": False},
}
LABELS = {"offline": ["dataset"], "ddp": ["dataset"], "dpp": ["dataset"], "dpr": ["hard", "soft"]}
CASES = [(source, labels) for source, kinds in LABELS.items() for labels in kinds]

MUTATIONS = {
    "response term negated": Mutations(response=lambda term: -term),
    "response term halved": Mutations(response=lambda term: term / 2),
    "response term doubled": Mutations(response=lambda term: 2 * term),
    "response term left out": Mutations(response=lambda term: 0 * term),
    "label term negated": Mutations(label=lambda term: -term),
    "label term halved": Mutations(label=lambda term: term / 2),
    "label term left out": Mutations(label=lambda term: 0 * term),
}


def expected_gradient(world: World, events: Events, values_N: torch.Tensor, *, of_policy: bool) -> torch.Tensor:
    """The gradient of the surrogate, averaged over events with their probabilities held fixed."""
    return world.gradient((world.probabilities(events, of_policy=of_policy).detach() * values_N).sum())


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize(("source", "labels"), CASES)
class TestEverySource:
    def test_at_coefficient_one_it_is_the_gradient_of_the_objective(
        self, source: str, labels: str, loss_type: str
    ) -> None:
        world, settings = World(loss_type), SOURCES[source]
        events = world.pairs(labels)
        exact = world.gradient(world.objective(events, **settings))
        for baseline in (0.0, 0.9):
            values = world.surrogate(events, 1.0, baseline=baseline, **settings)
            found = expected_gradient(world, events, values, of_policy=settings["policy_responses"])
            torch.testing.assert_close(found, exact, **EXACT)

    def test_at_coefficient_zero_it_is_the_plain_losss(self, source: str, labels: str, loss_type: str) -> None:
        world, settings = World(loss_type), SOURCES[source]
        events = world.pairs(labels)
        policy_labels = world.preference_logits(events).sigmoid().detach()
        given = policy_labels if settings["with_policy_labels"] else events.labels_N
        probabilities = world.probabilities(events, of_policy=settings["policy_responses"]).detach()
        plain = world.gradient((probabilities * world.losses(events, given)).sum())
        values = world.surrogate(events, 0.0, baseline=0.9, **settings)
        found = expected_gradient(world, events, values, of_policy=settings["policy_responses"])
        torch.testing.assert_close(found, plain, **EXACT)

    @pytest.mark.parametrize("mutation", MUTATIONS)
    def test_a_mutated_term_is_noticed(self, source: str, labels: str, loss_type: str, mutation: str) -> None:
        world, settings = World(loss_type), SOURCES[source]
        is_present = settings["policy_responses" if mutation.startswith("response") else "with_policy_labels"]
        events = world.pairs(labels)
        exact = world.gradient(world.objective(events, **settings))
        values = world.surrogate(events, 1.0, mutations=MUTATIONS[mutation], **settings)
        found = expected_gradient(world, events, values, of_policy=settings["policy_responses"])
        assert (difference(found, exact) > 1e-4) == is_present

    def test_weights_correct_for_another_sampling_policy(self, source: str, labels: str, loss_type: str) -> None:
        world, settings = World(loss_type), SOURCES[source]
        if not settings["policy_responses"]:
            pytest.skip("responses from the dataset are not sampled")
        events = world.pairs(labels)
        exact = world.gradient(world.objective(events, **settings))
        sampled = world.probabilities(events, of_policy=True, table=world.sampler)
        values = world.surrogate(events, 1.0, baseline=0.4, weights_from_sampler=True, **settings)
        torch.testing.assert_close(world.gradient((sampled * values).sum()), exact, **EXACT)
        unweighted = world.surrogate(events, 1.0, baseline=0.4, **settings)
        assert difference(world.gradient((sampled * unweighted).sum()), exact) > 1e-3


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("source", ["ddp", "dpp"])
def test_drawn_policy_labels_have_the_same_expected_gradient(source: str, loss_type: str) -> None:
    """Drawing z from pθ instead of summing over it: noisier, and equal on average."""
    world, settings = World(loss_type), SOURCES[source]
    events = world.pairs("dataset")
    exact = world.gradient(world.objective(events, **settings))
    first_wins = world.preference_logits(events).sigmoid().detach()
    values = sum(
        weight * world.surrogate(events, 1.0, drawn_labels_N=torch.full_like(first_wins, drawn), **settings)
        for drawn, weight in ((1.0, first_wins), (0.0, 1 - first_wins))
    )
    found = expected_gradient(world, events, values, of_policy=settings["policy_responses"])
    torch.testing.assert_close(found, exact, **EXACT)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_drawn_reward_labels_have_the_gradient_of_soft_ones(loss_type: str) -> None:
    world = World(loss_type)
    soft = world.pairs("soft")
    exact = world.gradient(world.objective(soft, **SOURCES["dpr"]))
    values = sum(
        weight * world.surrogate(soft._replace(labels_N=torch.full_like(soft.labels_N, drawn)), 1.0, **SOURCES["dpr"])
        for drawn, weight in ((1.0, soft.labels_N), (0.0, 1 - soft.labels_N))
    )
    torch.testing.assert_close(expected_gradient(world, soft, values, of_policy=True), exact, **EXACT)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
class TestBestOfThree:
    def test_all_three_responses_carry_the_term(self, loss_type: str) -> None:
        world = World(loss_type)
        events = world.best_worst_of_three()
        exact = world.gradient(world.objective(events, **SOURCES["dpr"]))
        values = world.surrogate(events, 1.0, baseline=0.5, **SOURCES["dpr"])
        torch.testing.assert_close(expected_gradient(world, events, values, of_policy=True), exact, **EXACT)

    def test_the_two_of_the_pair_alone_are_not_enough(self, loss_type: str) -> None:
        world = World(loss_type)
        events = world.best_worst_of_three()
        exact = world.gradient(world.objective(events, **SOURCES["dpr"]))
        pair_only = events._replace(sampled_NK=torch.stack([events.chosen_N, events.rejected_N], 1))
        values = world.surrogate(pair_only, 1.0, baseline=0.5, **SOURCES["dpr"])
        assert difference(expected_gradient(world, events, values, of_policy=True), exact) > 1e-2


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
class TestBaselinesOverBatches:
    """Two prompts' worth of events in one batch; the second prompt's losses are the first's baseline."""

    def batches(self, world: World) -> tuple[Events, torch.Tensor, torch.Tensor]:
        """A few pairs only, so that all batches of two can be listed: responses of at most one token before EOS."""
        short = [index for index, length in enumerate(world.lengths.tolist()) if length < 3]
        one, two = torch.tensor([(a, b) for a in short for b in short]).T
        events = Events(one, two, torch.stack([one, two], 1), world.label(one, two, "soft"))
        first, second = torch.cartesian_prod(torch.arange(len(one)), torch.arange(len(one))).T
        return events, first, second

    def surrogates(self, world: World, group_ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Over restricted events the score has no mean of 0, so probabilities are renormalised within them."""
        events, first, second = self.batches(world)
        logps = world.logps(world.theta)
        short = events.chosen_N.unique()
        logps = logps - logps[short].logsumexp(0)
        pair_logps = logps[events.sampled_NK].sum(1)
        losses = world.losses(events, events.labels_N)
        exact = world.gradient((pair_logps.exp() * losses).sum())
        ids = torch.tensor(group_ids)
        total = torch.zeros((), dtype=torch.float64)
        weights = (pair_logps[first] + pair_logps[second]).exp().detach()
        for a, b, weight in zip(first.tolist(), second.tolist(), weights, strict=True):
            batch = torch.stack([losses[a], losses[b]])
            baselines = leave_one_out_baseline(batch, ids, ids, empty=0.3)
            terms = response_term(batch, baselines, torch.stack([pair_logps[a], pair_logps[b]]))
            total = total + weight * (batch + terms).mean()
        return world.gradient(total), exact

    def test_independent_pairs_are_each_others_baseline(self, loss_type: str) -> None:
        found, exact = self.surrogates(World(loss_type), [0, 1])
        torch.testing.assert_close(found, exact, **EXACT)

    def test_pairs_of_one_group_are_left_out_together(self, loss_type: str) -> None:
        found, exact = self.surrogates(World(loss_type), [5, 5])
        torch.testing.assert_close(found, exact, **EXACT)


class TestKl:
    def exact(self, world: World) -> torch.Tensor:
        logps, reference = world.logps(world.theta), world.logps(world.reference)
        return world.gradient((logps.exp() * (logps - reference)).sum())

    def found(self, world: World, gradient: str) -> torch.Tensor:
        values = sequence_kl(world.token_kl(), world.token_logps(world.theta), world.mask, gradient)
        return world.gradient((world.logps(world.theta).exp().detach() * values).sum())

    def test_the_full_gradient_is_that_of_the_sequence_kl(self) -> None:
        world = World("sigmoid")
        torch.testing.assert_close(self.found(world, "full"), self.exact(world), **EXACT)

    def test_the_pathwise_gradient_is_not(self) -> None:
        world = World("sigmoid")
        assert difference(self.found(world, "pathwise"), self.exact(world)) > 1e-3

    def test_weights_correct_for_another_sampling_policy(self) -> None:
        world = World("sigmoid")
        ratio = (world.logps(world.theta) - world.logps(world.sampler)).exp().detach()
        values = sequence_kl(world.token_kl(), world.token_logps(world.theta), world.mask, "full")
        found = world.gradient((world.logps(world.sampler).exp() * ratio * values).sum())
        torch.testing.assert_close(found, self.exact(world), **EXACT)

    @pytest.mark.parametrize("factor", [-1.0, 0.5, 2.0])
    def test_a_score_part_of_another_sign_or_size_is_noticed(self, factor: float) -> None:
        world = World("sigmoid")
        pathwise, full = self.found(world, "pathwise"), self.found(world, "full")
        assert difference(pathwise + factor * (full - pathwise), self.exact(world)) > 1e-3

    @pytest.mark.parametrize("gradient", ["pathwise", "full"])
    def test_the_value_is_the_summed_kl_either_way(self, gradient: str) -> None:
        world = World("sigmoid")
        values = sequence_kl(world.token_kl(), world.token_logps(world.theta), world.mask, gradient)
        torch.testing.assert_close(values, (world.token_kl() * world.mask).sum(-1))

    def test_another_gradient_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="pathwise or full"):
            sequence_kl(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), "exact")
