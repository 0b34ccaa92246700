"""The loss of a batch against numbers worked out by hand, on a model that is a table.

The table's logits depend on the last token alone, so that log-probabilities are sums of entries, and in double
precision: what is expected here is written with Python's floats.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.functional import logsigmoid

from align_cli.methods import preference
from align_cli.recipe import Recipe
from align_cli.training.batches import TrainingPair
from align_cli.training.collated import Inputs, PairCollator
from align_cli.training.figures import Figures
from align_cli.training.objective import Objective, SourceTerms, carriers, pairs_per_carrier, recipe_objective
from align_cli.training.pair_losses import PairLosses, pair_losses
from align_cli.training.pair_values import GlobalLosses, pair_values

VOCABULARY, PAD = 6, 0
PROMPT = [1, 2]
A, B, C, D = [3, 4], [5], [4, 4, 2], [2, 5, 3, 1]


class Table(torch.nn.Module):
    """A causal language model whose next token depends on the last one alone; counts its calls."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits_VV = torch.nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator).double())
        self.calls = 0

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(logits=self.logits_VV[input_ids])

    def rows(self) -> list[list[float]]:
        """log π(next | last) as numbers."""
        return self.logits_VV.detach().log_softmax(-1).tolist()

    def logp(self, response: Sequence[int], prompt: Sequence[int] = PROMPT) -> float:
        rows, before = self.rows(), [prompt[-1], *response]
        return sum(rows[last][token] for last, token in zip(before, response, strict=False))

    def logp_with_gradient(self, response: Sequence[int]) -> torch.Tensor:
        before = torch.tensor([PROMPT[-1], *response[:-1]])
        return self.logits_VV.log_softmax(-1)[before, torch.tensor(response)].sum()


class Outcome(NamedTuple):
    """What the objective made of a batch."""

    pairs: PairLosses
    values: torch.Tensor
    figures: dict[str, float]


@pytest.fixture
def policy() -> Table:
    return Table(0)


@pytest.fixture
def reference() -> Table:
    return Table(1)


Evaluate = Callable[..., Outcome]


@pytest.fixture
def evaluate(policy: Table, reference: Table) -> Evaluate:
    """`evaluate(objective, pairs)`: the whole batch at once, its own pairs for baselines and the terms' weights."""

    def run(objective: Objective, pairs: Sequence[TrainingPair]) -> Outcome:
        inputs = PairCollator(PAD)(pairs)
        inputs |= pairs_per_carrier(carriers(objective, inputs))
        losses, figures = pair_losses(objective, policy, reference, inputs), Figures()
        values = pair_values(objective, losses, inputs, whole_batch(losses, inputs), figures)
        return Outcome(losses, values, figures.take())

    return run


def whole_batch(losses: PairLosses, inputs: Inputs) -> GlobalLosses:
    return GlobalLosses(losses.losses_B.detach(), inputs["source"], inputs["prompt_id"], inputs["response_ids"])


def pair(chosen: list[int], rejected: list[int], label: float = 1.0, **fields: Any) -> TrainingPair:
    return TrainingPair(PROMPT, chosen, rejected, label, **{"source": 0, "pair_id": 0, "prompt_id": 0, **fields})


def one_source(objective_settings: dict[str, Any] | None = None, **terms: Any) -> Objective:
    """An objective with one source; `terms` are the source's."""
    return Objective((SourceTerms("only", **terms),), **(objective_settings or {}))


def dpo(margin: float, label: float = 1.0, beta: float = 0.1) -> float:
    """−q log σ(βh) − (1 − q) log σ(−βh)."""
    return label * math.log1p(math.exp(-beta * margin)) + (1 - label) * math.log1p(math.exp(beta * margin))


class ByHand:
    """s(y) and the rest of it as numbers."""

    def __init__(self, policy: Table, reference: Table) -> None:
        self.policy, self.reference = policy, reference

    def ratio(self, response: list[int]) -> float:
        return self.policy.logp(response) - self.reference.logp(response)

    def loss(self, chosen: list[int], rejected: list[int], label: float = 1.0, beta: float = 0.1) -> float:
        return dpo(self.ratio(chosen) - self.ratio(rejected), label, beta)

    def kl(self, response: list[int]) -> float:
        total = 0.0
        for last in [PROMPT[-1], *response[:-1]]:
            ours, theirs = self.policy.rows()[last], self.reference.rows()[last]
            total += sum(math.exp(p) * (p - q) for p, q in zip(ours, theirs, strict=True))
        return total


@pytest.fixture
def hand(policy: Table, reference: Table) -> ByHand:
    return ByHand(policy, reference)


def gradient_of(value: torch.Tensor, policy: Table) -> torch.Tensor:
    return torch.autograd.grad(value, policy.logits_VV, retain_graph=True)[0]


class TestTheLossItself:
    @pytest.mark.parametrize("label", [1.0, 0.75])
    def test_each_losses_value(self, evaluate: Evaluate, hand: ByHand, policy: Table, label: float) -> None:
        ratios = hand.ratio(C), hand.ratio(B)
        averages = policy.logp(C) / 3, policy.logp(B) / 1
        margins = {
            "sigmoid": ratios[0] - ratios[1],
            "hinge": ratios[0] - ratios[1],
            "ipo": ratios[0] / 3 - ratios[1] / 1,
            "simpo": averages[0] - averages[1],
        }
        formulas = {
            "sigmoid": lambda h: math.log1p(math.exp(-0.4 * h)),
            "hinge": lambda h: max(0.0, 1 - 0.4 * h),
            "ipo": lambda h: (h - 1 / (2 * 0.4)) ** 2,
            "simpo": lambda h: math.log1p(math.exp(-(0.4 * h - 0.3))),
        }
        for name, formula in formulas.items():
            objective = one_source({"loss_type": name, "beta": 0.4, "gamma": 0.3 if name == "simpo" else 0.0})
            found = evaluate(objective, [pair(C, B, label)])
            expected = label * formula(margins[name]) + (1 - label) * formula(-margins[name])
            assert found.values.item() == pytest.approx(expected), name
            assert found.figures["only/margin"] == pytest.approx(margins[name]), name

    def test_an_equal_text_pair_costs_the_loss_at_zero_margin(self, evaluate: Evaluate) -> None:
        assert evaluate(one_source(), [pair(A, A, 0.5)]).values.item() == pytest.approx(math.log(2))

    def test_policy_labels_follow_the_policy_and_not_what_is_stored(self, evaluate: Evaluate, hand: ByHand) -> None:
        sources = (SourceTerms("offline"), SourceTerms("ddp", policy_labels=True))
        found = evaluate(Objective(sources), [pair(A, C, 0.9), pair(A, C, 0.9, source=1)])
        own = 1 / (1 + math.exp(-0.1 * (hand.ratio(A) - hand.ratio(C))))
        assert found.pairs.labels_B.tolist() == pytest.approx([0.9, own])
        assert not found.pairs.labels_B.requires_grad

    def test_the_policys_label_is_on_whole_responses_whatever_the_loss_divides_by(
        self, evaluate: Evaluate, hand: ByHand
    ) -> None:
        found = evaluate(one_source({"loss_type": "ipo"}, policy_labels=True), [pair(A, D)])
        own = 1 / (1 + math.exp(-0.1 * (hand.ratio(A) - hand.ratio(D))))
        assert found.pairs.labels_B.item() == pytest.approx(own)


class TestWhoseResponsesCarryTheTerm:
    @pytest.mark.parametrize("of_policy", [(True, True), (True, False), (False, True), (False, False)])
    @pytest.mark.parametrize("others", [(), (D,)])
    def test_only_those_that_the_policy_sampled(
        self,
        evaluate: Evaluate,
        hand: ByHand,
        policy: Table,
        of_policy: tuple[bool, bool],
        others: tuple[list[int], ...],
    ) -> None:
        """With one pair the baseline is ℓ(0) = log 2."""
        sampled = [response for response, own in ((A, of_policy[0]), (C, of_policy[1])) if own] + list(others)
        objective = one_source(gradient_coefficient=0.3, policy_responses=True)
        found = evaluate(objective, [pair(A, C, 0.8, of_policy=of_policy, other_ids=others)])
        advantage = hand.loss(A, C, 0.8) - math.log(2)
        term = advantage * sum(policy.logp(response) for response in sampled)
        assert found.values.item() == pytest.approx(hand.loss(A, C, 0.8) + 0.3 * term)
        assert found.figures["only/response_term"] == pytest.approx(abs(term))

        plain = evaluate(one_source(), [pair(A, C, 0.8)]).values
        expected = gradient_of(plain, policy)
        for response in sampled:
            expected = expected + 0.3 * advantage * gradient_of(policy.logp_with_gradient(response), policy)
        torch.testing.assert_close(gradient_of(found.values, policy), expected)

    def test_none_where_the_sources_responses_are_a_datasets(self, evaluate: Evaluate, hand: ByHand) -> None:
        found = evaluate(one_source(gradient_coefficient=0.3), [pair(A, C)])
        assert found.values.item() == pytest.approx(hand.loss(A, C))
        assert "only/response_term" not in found.figures

    def test_the_label_term_is_the_exact_sum_over_who_wins(
        self, evaluate: Evaluate, hand: ByHand, policy: Table
    ) -> None:
        found = evaluate(one_source(gradient_coefficient=0.7, policy_labels=True), [pair(A, C)])
        margin = hand.ratio(A) - hand.ratio(C)
        q = 1 / (1 + math.exp(-0.1 * margin))
        log_wins, log_loses = math.log(q), math.log(1 - q)
        term = q * dpo(margin) * log_wins + (1 - q) * dpo(-margin) * log_loses
        assert found.values.item() == pytest.approx(dpo(margin, q) + 0.7 * term)
        assert found.figures["only/label_term"] == pytest.approx(abs(term))
        # For DPO the plain loss has no gradient at q = pθ; d log σ(βh) = β(1 − q) dh and d log σ(−βh) = −βq dh.
        slope = 0.7 * 0.1 * (q * dpo(margin) * (1 - q) - (1 - q) * dpo(-margin) * q)
        gap = policy.logp_with_gradient(A) - policy.logp_with_gradient(C)
        torch.testing.assert_close(gradient_of(found.values, policy), slope * gradient_of(gap, policy))


class TestBaselines:
    def test_all_pairs_of_three_leave_out_what_shares_the_response(
        self, evaluate: Evaluate, hand: ByHand, policy: Table
    ) -> None:
        """Of the pairs AB, AC, BC each response is missing from exactly one, whose loss is its baseline."""
        pairs = [
            pair(A, B, pair_id=0, response_ids=(0, 1)),
            pair(A, C, pair_id=1, response_ids=(0, 2)),
            pair(B, C, 0.6, pair_id=2, response_ids=(1, 2)),
        ]
        found = evaluate(one_source(gradient_coefficient=1.0, policy_responses=True), pairs)
        ab, ac, bc = hand.loss(A, B), hand.loss(A, C), hand.loss(B, C, 0.6)
        baselines = {"A": bc, "B": ac, "C": ab}
        for value, loss, members in zip(found.values.tolist(), (ab, ac, bc), ("AB", "AC", "BC"), strict=True):
            responses = {"A": A, "B": B, "C": C}
            term = sum((loss - baselines[name]) * policy.logp(responses[name]) for name in members)
            assert value == pytest.approx(loss + term)
        mean = 2 * (ab + ac + bc) / 6
        assert found.figures["only/baseline"] == pytest.approx(mean)

    def test_without_another_pair_of_the_prompt_those_of_other_prompts_stand_in(
        self, evaluate: Evaluate, hand: ByHand, policy: Table
    ) -> None:
        pairs = [pair(A, B, pair_id=0), pair(C, B, pair_id=1, prompt_id=1), pair(D, B, pair_id=2, prompt_id=2)]
        found = evaluate(one_source(gradient_coefficient=1.0, policy_responses=True), pairs)
        losses = [hand.loss(A, B), hand.loss(C, B), hand.loss(D, B)]
        for index, chosen in enumerate((A, C, D)):
            baseline = (sum(losses) - losses[index]) / 2
            term = (losses[index] - baseline) * (policy.logp(chosen) + policy.logp(B))
            assert found.values[index].item() == pytest.approx(losses[index] + term)

    def test_another_sources_pairs_never_enter(self, evaluate: Evaluate, hand: ByHand, policy: Table) -> None:
        sources = tuple(SourceTerms(name, 1.0, policy_responses=True) for name in ("dpr", "dmd"))
        found = evaluate(Objective(sources), [pair(A, B), pair(C, B, source=1, prompt_id=1)])
        for index, chosen in enumerate((A, C)):
            loss = hand.loss(chosen, B)
            term = (loss - math.log(2)) * (policy.logp(chosen) + policy.logp(B))
            assert found.values[index].item() == pytest.approx(loss + term)

    def test_a_copy_of_a_pair_is_left_out_with_it(self, evaluate: Evaluate, hand: ByHand, policy: Table) -> None:
        found = evaluate(one_source(gradient_coefficient=1.0, policy_responses=True), [pair(A, B), pair(A, B)])
        loss = hand.loss(A, B)
        term = (loss - math.log(2)) * (policy.logp(A) + policy.logp(B))
        assert found.values.tolist() == pytest.approx([loss + term] * 2)


class TestImportanceWeights:
    def sources(self, **terms: Any) -> tuple[SourceTerms, ...]:
        return (SourceTerms("offline"), *(SourceTerms(name, policy_responses=True, **terms) for name in ("dpr", "dmd")))

    def test_only_what_the_policy_sampled_enters_and_every_term_but_optimism_is_weighed(
        self, evaluate: Evaluate, hand: ByHand, policy: Table
    ) -> None:
        sources = self.sources(gradient_coefficient=0.5)
        objective = Objective(sources, kl_coefficient=0.2, optimism_coefficient=0.4, importance_weight_cap=100.0)
        sampled_logp = policy.logp(B) + policy.logp(D) - 0.4
        whose = {"of_policy": (False, True), "from_reference": (True, False)}
        mixed = pair(A, B, source=2, other_ids=(D,), sampled_logp=sampled_logp, **whose)
        found = evaluate(objective, [mixed])
        term = (hand.loss(A, B) - math.log(2)) * (policy.logp(B) + policy.logp(D))
        value = hand.loss(A, B) + 0.5 * term + 0.2 * hand.kl(B)
        assert found.values.item() == pytest.approx(math.exp(0.4) * value + 0.4 * hand.ratio(A))
        bare = replace(objective, importance_weight_cap=None)
        unweighed = gradient_of(evaluate(bare, [mixed]).values, policy)
        without = gradient_of(evaluate(replace(bare, optimism_coefficient=0.0), [mixed]).values, policy)
        expected = math.exp(0.4) * without + (unweighed - without)
        torch.testing.assert_close(gradient_of(found.values, policy), expected, rtol=1e-6, atol=1e-9)

    def test_weights_do_not_undo_optimism_on_the_policys_own_responses(self, evaluate: Evaluate, policy: Table) -> None:
        """Drawn from the reference: weighed, the term would be an expectation over the policy, whose score has none."""
        drawn = pair(A, B, source=1, sampled_logp=policy.logp(A) + policy.logp(B) - 3.0, from_reference=(True, True))
        gradients = []
        for cap in (None, 100.0):
            bold, plain = (
                Objective(self.sources(), optimism_coefficient=coefficient, importance_weight_cap=cap)
                for coefficient in (0.4, 0.0)
            )
            values = evaluate(bold, [drawn]).values - evaluate(plain, [drawn]).values
            gradients.append(gradient_of(values, policy))
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-9)
        assert gradients[0].abs().max() > 0.01

    def test_figures_are_per_source_and_the_cap_shows(self, evaluate: Evaluate, hand: ByHand, policy: Table) -> None:
        both = policy.logp(A) + policy.logp(B)
        pairs = [
            pair(A, B),
            *(pair(A, B, source=1, sampled_logp=both - math.log(weight)) for weight in (0.5, 1.5, 4.0, 8.0)),
            pair(A, B, source=2, sampled_logp=both - math.log(0.25)),
        ]
        found = evaluate(Objective(self.sources(), importance_weight_cap=2.0), pairs)
        loss = hand.loss(A, B)
        expected = [loss * weight for weight in (1, 0.5, 1.5, 2, 2, 0.25)]
        assert found.values.tolist() == pytest.approx(expected, rel=1e-6)
        figures = {name: value for name, value in found.figures.items() if "importance" in name}
        assert figures == pytest.approx(
            {
                "dpr/importance_weight": (0.5 + 1.5 + 2 + 2) / 4,
                "dpr/importance_weight_truncated": 0.5,
                "dmd/importance_weight": 0.25,
                "dmd/importance_weight_truncated": 0.0,
            },
            rel=1e-6,
        )

    def test_without_a_cap_nothing_is_weighed(self, evaluate: Evaluate, hand: ByHand) -> None:
        found = evaluate(Objective(self.sources()), [pair(A, B, source=1, sampled_logp=-1.0)])
        assert found.values.item() == pytest.approx(hand.loss(A, B))
        assert not any("importance" in name for name in found.figures)

    def test_the_loss_that_is_reported_is_the_unweighed_one(self, evaluate: Evaluate, hand: ByHand) -> None:
        pairs = [pair(A, B), pair(A, C, source=1, sampled_logp=-50.0)]
        found = evaluate(Objective(self.sources(), importance_weight_cap=2.0), pairs)
        assert found.figures["loss"] == pytest.approx((hand.loss(A, B) + hand.loss(A, C)) / 2)


class TestKl:
    @pytest.mark.parametrize(
        ("of_policy", "on_all", "carriers"),
        [
            ((True, True), False, [A, C]),
            ((False, True), False, [C]),
            ((True, False), False, [A]),
            ((False, False), False, []),
            ((False, True), True, [A, C]),
            ((True, True), True, [A, C]),
        ],
    )
    def test_it_is_the_mean_over_the_responses_that_carry_it(
        self,
        evaluate: Evaluate,
        hand: ByHand,
        of_policy: tuple[bool, bool],
        on_all: bool,
        carriers: list[list[int]],
    ) -> None:
        objective = one_source({"kl_coefficient": 0.7, "kl_on_all": on_all}, policy_responses=True)
        found = evaluate(objective, [pair(A, C, of_policy=of_policy, other_ids=(D,))])
        expected = sum(hand.kl(response) for response in carriers) / max(len(carriers), 1)
        assert found.figures.get("only/kl") == (pytest.approx(expected) if carriers else None)
        assert found.values.item() == pytest.approx(hand.loss(A, C) + 0.7 * expected)

    def test_dataset_pairs_carry_it_where_all_do(self, evaluate: Evaluate, hand: ByHand) -> None:
        on_all, on_policy = (
            evaluate(one_source({"kl_coefficient": 1.0, "kl_on_all": on_all}), [pair(A, C)]) for on_all in (True, False)
        )
        assert on_all.values.item() == pytest.approx(hand.loss(A, C) + (hand.kl(A) + hand.kl(C)) / 2)
        assert on_policy.values.item() == pytest.approx(hand.loss(A, C))

    @pytest.mark.parametrize("baseline", [True, False])
    @pytest.mark.parametrize("of_policy", [(True, True), (True, False)])
    def test_the_full_gradient_adds_later_kl_times_the_score(
        self,
        evaluate: Evaluate,
        policy: Table,
        reference: Table,
        of_policy: tuple[bool, bool],
        baseline: bool,
    ) -> None:
        """Less that of the other response at the same position, where the policy drew that one too."""
        found = {}
        for kind in ("pathwise", "full"):
            settings = {"kl_gradient": kind, "kl_coefficient": 1.0, "kl_baseline": baseline}
            objective = one_source(settings, policy_responses=True)
            found[kind] = gradient_of(evaluate(objective, [pair(D, B, of_policy=of_policy)]).values, policy)
        logps = policy.logits_VV.log_softmax(-1)
        kl_V = (logps.exp() * (logps - reference.logits_VV.log_softmax(-1).detach())).sum(-1)

        def later(response: Sequence[int], step: int) -> torch.Tensor:
            return kl_V[[PROMPT[-1], *response[:-1]][step + 1 :]].sum().detach()

        def score(response: Sequence[int], other: Sequence[int]) -> torch.Tensor:
            has_baseline = baseline and all(of_policy)
            before = [PROMPT[-1], *response[:-1]]
            return sum(
                (
                    (later(response, step) - has_baseline * later(other, step)) * logps[before[step], response[step]]
                    for step in range(len(response))
                ),
                start=torch.zeros(()),
            )

        both = [one for one, is_own in zip((score(D, B), score(B, D)), of_policy, strict=True) if is_own]
        exact = gradient_of(torch.stack(both).mean(), policy)
        assert exact.abs().max() > 0.01
        torch.testing.assert_close(found["full"] - found["pathwise"], exact)

    def test_it_costs_nothing_where_there_is_no_gradient(self, policy: Table, reference: Table) -> None:
        """The pass that measures baselines needs losses alone."""
        objective = one_source({"kl_coefficient": 1.0}, policy_responses=True)
        with torch.no_grad():
            found = pair_losses(objective, policy, reference, PairCollator(PAD)([pair(A, C)]))
        assert found.kl_B.tolist() == [0.0]


class TestOptimism:
    @pytest.mark.parametrize(
        ("from_reference", "carriers"),
        [((True, False), [A]), ((False, True), [C]), ((True, True), [A, C]), ((False, False), [])],
    )
    def test_it_is_the_mean_log_ratio_of_what_the_reference_sampled(
        self,
        evaluate: Evaluate,
        hand: ByHand,
        policy: Table,
        from_reference: tuple[bool, bool],
        carriers: list[list[int]],
    ) -> None:
        objective = one_source({"optimism_coefficient": 0.3}, policy_responses=True)
        found = evaluate(objective, [pair(A, C, from_reference=from_reference)])
        expected = sum(hand.ratio(response) for response in carriers) / max(len(carriers), 1)
        assert found.values.item() == pytest.approx(hand.loss(A, C) + 0.3 * expected)
        assert found.figures.get("only/optimism_term") == (pytest.approx(expected) if carriers else None)
        gradient = gradient_of(evaluate(one_source(), [pair(A, C)]).values, policy)
        for response in carriers:
            gradient = gradient + 0.3 / len(carriers) * gradient_of(policy.logp_with_gradient(response), policy)
        torch.testing.assert_close(gradient_of(found.values, policy), gradient)

    def test_without_a_coefficient_there_is_none(self, evaluate: Evaluate, hand: ByHand) -> None:
        found = evaluate(one_source(policy_responses=True), [pair(A, C, from_reference=(True, True))])
        assert found.values.item() == pytest.approx(hand.loss(A, C))
        assert "only/optimism_term" not in found.figures


class TestWeightsOfAStep:
    """Each term's share of the step is its coefficient times the mean over the pairs that carry it."""

    PAIRS = (
        pair(A, B, source=0, pair_id=0),
        pair(B, D, source=0, pair_id=1),
        pair(A, C, source=1, pair_id=0, of_policy=(True, False), from_reference=(False, True)),
        pair(B, C, source=1, pair_id=1),
        pair(D, C, source=1, pair_id=2, of_policy=(False, False), from_reference=(True, True)),
    )
    SOURCES = (SourceTerms("offline"), SourceTerms("dpr", policy_responses=True))

    def added(self, evaluate: Evaluate, pairs: Sequence[TrainingPair], **terms: Any) -> float:
        """What the terms add to the mean over the batch."""
        with_terms, without = (evaluate(Objective(self.SOURCES, **settings), pairs) for settings in (terms, {}))
        return (with_terms.values - without.values).mean().item()

    @pytest.mark.parametrize("num_others", [0, 1, 2])
    @pytest.mark.parametrize("num_carriers", [1, 2])
    def test_the_kl_is_the_coefficient_times_the_mean_over_carriers(
        self, evaluate: Evaluate, hand: ByHand, num_others: int, num_carriers: int
    ) -> None:
        """Of no weight are pairs of a dataset, and one of two responses of the reference."""
        carrying = [hand.kl(A), (hand.kl(B) + hand.kl(C)) / 2][:num_carriers]
        batch = [*self.PAIRS[:num_others], *self.PAIRS[2 : 2 + num_carriers], self.PAIRS[4]]
        added = self.added(evaluate, batch, kl_coefficient=0.3)
        assert added == pytest.approx(0.3 * sum(carrying) / num_carriers, rel=1e-6)

    def test_the_kl_on_all_is_a_mean_over_all(self, evaluate: Evaluate, hand: ByHand) -> None:
        added = self.added(evaluate, self.PAIRS, kl_coefficient=0.3, kl_on_all=True)
        both = [(hand.kl(one) + hand.kl(two)) / 2 for one, two in ((A, B), (B, D), (A, C), (B, C), (D, C))]
        assert added == pytest.approx(0.3 * sum(both) / 5, rel=1e-6)

    @pytest.mark.parametrize("num_others", [0, 1, 2])
    def test_optimism_is_the_coefficient_times_the_mean_over_carriers(
        self, evaluate: Evaluate, hand: ByHand, num_others: int
    ) -> None:
        """The policy's own pair of the same source dilutes it no more than the dataset's."""
        batch = [*self.PAIRS[:num_others], *self.PAIRS[2:]]
        carrying = [hand.ratio(C), (hand.ratio(D) + hand.ratio(C)) / 2]
        added = self.added(evaluate, batch, optimism_coefficient=0.3)
        assert added == pytest.approx(0.3 * sum(carrying) / 2, rel=1e-6)

    def test_a_term_that_no_pair_carries_adds_nothing(self, evaluate: Evaluate) -> None:
        terms = {"kl_coefficient": 0.3, "optimism_coefficient": 0.3}
        assert self.added(evaluate, self.PAIRS[:2], **terms) == 0.0


class TestFigures:
    def test_accuracy_counts_labels_below_one_and_ties(self, evaluate: Evaluate, hand: ByHand) -> None:
        better, worse = (A, C) if hand.ratio(A) > hand.ratio(C) else (C, A)
        for given, label, expected in (
            ((better, worse), 1.0, 1.0),
            ((worse, better), 1.0, 0.0),
            ((better, worse), 0.7, 0.7),
            ((worse, better), 0.7, 0.3),
            ((worse, better), 0.25, 0.75),
            ((A, A), 1.0, 0.5),
            ((A, A), 0.9, 0.5),
            ((better, worse), 0.5, 0.5),
        ):
            figures = evaluate(one_source(), [pair(*given, label)]).figures
            assert figures["only/accuracy"] == pytest.approx(expected), (given, label)
        mean = evaluate(one_source(), [pair(better, worse), pair(worse, better, 0.7), pair(A, A)]).figures
        assert mean["only/accuracy"] == pytest.approx((1 + 0.3 + 0.5) / 3)

    def test_self_labelled_sources_say_how_sure_the_policy_is(self, evaluate: Evaluate, hand: ByHand) -> None:
        q = 1 / (1 + math.exp(-2.0 * (hand.ratio(A) - hand.ratio(C))))
        objective = one_source({"beta": 2.0}, policy_labels=True)
        for chosen, rejected in ((A, C), (C, A)):
            figures = evaluate(objective, [pair(chosen, rejected)]).figures
            assert figures["only/confidence"] == pytest.approx(max(q, 1 - q))
            assert set(figures) == {"loss", "only/loss", "only/confidence"}
        assert evaluate(objective, [pair(A, A)]).figures["only/confidence"] == pytest.approx(0.5)

    def test_each_source_has_its_own_and_none_without_pairs(self, evaluate: Evaluate, hand: ByHand) -> None:
        sources = (SourceTerms("offline"), SourceTerms("dpr", policy_responses=True), SourceTerms("dmd"))
        figures = evaluate(Objective(sources), [pair(A, B), pair(C, B), pair(D, B, source=1)]).figures
        assert figures["offline/loss"] == pytest.approx((hand.loss(A, B) + hand.loss(C, B)) / 2)
        assert figures["dpr/loss"] == pytest.approx(hand.loss(D, B))
        assert figures["loss"] == pytest.approx((hand.loss(A, B) + hand.loss(C, B) + hand.loss(D, B)) / 3)
        assert not any(name.startswith("dmd/") for name in figures)

    def test_means_are_over_values_and_not_over_additions(self) -> None:
        figures = Figures()
        figures.add("b", torch.tensor([1.0, 2.0, 3.0]))
        figures.add("b", torch.tensor([10.0], requires_grad=True))
        figures.add("a", torch.tensor(5.0))
        figures.add("none", torch.tensor([]))
        assert list(figures.take().items()) == [("a", 5.0), ("b", 4.0)]
        assert figures.take() == {}

    @pytest.mark.parametrize("cuts", [[1] * 12, [5, 7], [3, 1, 8]])
    def test_they_do_not_depend_on_the_micro_batches(self, policy: Table, reference: Table, cuts: list[int]) -> None:
        objective = Objective(
            (
                SourceTerms("offline"),
                SourceTerms("ddp", 0.5, policy_labels=True),
                SourceTerms("dpp", 0.5, policy_responses=True, policy_labels=True),
                SourceTerms("dpr", 0.5, policy_responses=True),
            ),
            kl_coefficient=0.3,
            optimism_coefficient=0.2,
            importance_weight_cap=1.1,
        )
        rng = random.Random(0)
        pairs = [
            pair(
                rng.choice([A, B, C]),
                rng.choice([B, C, D]),
                rng.choice([1.0, 0.6]),
                source=[0, 1, 2, 3, 3, 3][index % 6],
                pair_id=index,
                prompt_id=index // 3,
                of_policy=(index % 2 == 0, True),
                from_reference=(index % 2 == 1, False),
                sampled_logp=-8.0,
            )
            for index in range(12)
        ]
        collate = PairCollator(PAD)
        whole = collate(pairs)
        whole |= pairs_per_carrier(carriers(objective, whole))
        losses, whole_figures = pair_losses(objective, policy, reference, whole), Figures()
        batch = whole_batch(losses, whole)
        whole_values = pair_values(objective, losses, whole, batch, whole_figures)
        figures, values, start = Figures(), [], 0
        for count in cuts:
            part = collate(pairs[start : start + count])
            part |= {name: column for name, column in whole.items() if name.startswith("global_")}
            values.append(pair_values(objective, pair_losses(objective, policy, reference, part), part, batch, figures))
            start += count
        torch.testing.assert_close(torch.cat(values), whole_values)
        assert figures.take() == pytest.approx(whole_figures.take())


class TestSimpoNeedsNoReference:
    simpo = one_source({"loss_type": "simpo", "beta": 2.0, "gamma": 0.5})

    def test_it_is_never_run(self, evaluate: Evaluate, policy: Table, reference: Table) -> None:
        assert not self.simpo.needs_reference
        evaluate(self.simpo, [pair(A, C)])
        assert (policy.calls, reference.calls) == (1, 0)

    def test_it_need_not_be_there(self, policy: Table) -> None:
        assert pair_losses(self.simpo, policy, None, PairCollator(PAD)([pair(A, C)])).losses_B.item() > 0

    def test_an_anchor_asks_for_it(self, evaluate: Evaluate, hand: ByHand, policy: Table, reference: Table) -> None:
        anchored = replace(self.simpo, kl_coefficient=0.5, kl_on_all=True)
        assert anchored.needs_reference
        found = evaluate(anchored, [pair(A, C)])
        assert reference.calls == 1
        loss = math.log1p(math.exp(-(2.0 * (policy.logp(A) / 2 - policy.logp(C) / 3) - 0.5)))
        assert found.values.item() == pytest.approx(loss + 0.5 * (hand.kl(A) + hand.kl(C)) / 2)

    @pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
    def test_the_others_run_it_once(self, evaluate: Evaluate, reference: Table, loss_type: str) -> None:
        evaluate(one_source({"loss_type": loss_type}), [pair(A, C)])
        assert reference.calls == 1


class TestObjectiveOfARecipe:
    """What a recipe says, as the loss has it."""

    @pytest.fixture
    def objective(self, tiny_recipe: Callable[..., Recipe], tmp_path: Any) -> Callable[..., Objective]:
        def make(**method: Any) -> Objective:
            changes = {f"method__{key}": value for key, value in method.items()}
            return recipe_objective(tiny_recipe(tmp_path, **changes))

        return make

    def test_it_is_the_recipes(self, objective: Callable[..., Objective]) -> None:
        dpr = {"mixing": 0.25, "gradient": 0.3, "labeler": "hidden"}
        mixture = {"offline": {"mixing": 0.5}, "dpp": {"mixing": 0.25, "gradient": 0.1}, "dpr": dpr}
        found = objective(sources=mixture, kl={"coefficient": 0.2, "on": "policy"}, importance_weight_cap=3.0)
        assert found.sources == (
            SourceTerms("offline"),
            SourceTerms("dpp", 0.1, True, True),
            SourceTerms("dpr", 0.3, True, False),
        )
        assert (found.kl_coefficient, found.kl_on_all, found.kl_gradient) == (0.2, False, "full")
        assert (found.importance_weight_cap, found.optimism_coefficient, found.needs_baseline) == (3.0, 0.0, True)
        everywhere = objective(sources=mixture, kl={"coefficient": 0.2, "on": "all", "gradient": "pathwise"})
        assert (everywhere.kl_coefficient, everywhere.kl_on_all, everywhere.kl_gradient) == (0.2, True, "pathwise")

    def test_optimism_has_the_recipes_coefficient(self, tiny_recipe: Callable[..., Recipe], tmp_path: Any) -> None:
        recipe = tiny_recipe(
            tmp_path,
            method__optimism={"coefficient": 0.01},
            method__sources={
                "offline": {"mixing": 0.75},
                "dpr": {"mixing": 0.25, "gradient": 0.0, "labeler": "hidden"},
            },
            generate__num_generations=1,
            generate__num_reference_generations=1,
        )
        assert recipe_objective(recipe).optimism_coefficient == 0.01

    def test_the_margin_to_win_by_is_simpos_alone(self, objective: Callable[..., Objective]) -> None:
        offline = {"offline": {"mixing": 1.0}}
        simpo = objective(sources=offline, loss_type="simpo", beta=2.0, simpo_gamma=0.9)
        assert (simpo.loss_type, simpo.beta, simpo.gamma) == ("simpo", 2.0, 0.9)
        assert simpo.losses(torch.zeros(1)).item() == pytest.approx(math.log1p(math.exp(0.9)))
        plain = objective(sources=offline, loss_type="dpo")
        assert (plain.loss_type, plain.gamma, plain.needs_baseline) == ("sigmoid", 0.0, False)


def test_each_direction_of_the_loss_is_computed_once(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(preference, "logsigmoid", lambda values: calls.append(values) or logsigmoid(values))
    evaluate(one_source(), [pair(A, B, 0.7)])
    assert len(calls) == 2


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_the_reference_runs_without_a_gradient(
    evaluate: Evaluate, policy: Table, reference: Table, loss_type: str
) -> None:
    """It is held fixed: nothing of its pass is kept for a gradient, and none reaches its weights."""
    kept: list[bool] = []
    reference.register_forward_hook(lambda *found: kept.append(found[-1].logits.requires_grad))
    terms = {"loss_type": loss_type, "kl_coefficient": 1.0, "optimism_coefficient": 0.5}
    objective = one_source(terms, policy_responses=True)
    evaluate(objective, [pair(A, C, of_policy=(True, True), from_reference=(False, True))]).values.sum().backward()
    assert kept == [False]
    assert reference.logits_VV.grad is None
    assert policy.logits_VV.grad is not None and policy.logits_VV.grad.abs().max() > 0
