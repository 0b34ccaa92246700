"""The whole method against enumeration: at coefficient 1 the surrogate's expected gradient is the bilevel gradient.

Every batch that a small policy can give is listed. The exact gradient comes from autograd through the enumerated
objective; the surrogate goes through the real `methods/`. Each comparison is repeated with one of its terms, weights or
baselines made wrong, and then has to fail.
"""

from __future__ import annotations

import pytest
import torch
from enumerated import DESIGNS, World
from surrogate import MUTATIONS, OVER_BATCH, OVER_PROMPT, Case, Surrogate, present_parts

from align_cli.methods.bilevel import importance_weights
from align_cli.methods.kl import later_kl, sequence_kl
from align_cli.methods.optimism import optimism_term

LOSS_TYPES = ("sigmoid", "ipo", "hinge")
EXACT, NOTICED = 1e-10, 1e-4

NO_TERM, NONE, CONSTANT = "", "no baseline", "constant baseline"
AS_DRAWN, REWEIGHTED = False, True

# Which baselines a response term can have: pairs of one prompt are each other's where they share no response.
BASELINES = {
    "two": (NONE, CONSTANT, OVER_BATCH),
    "all pairs of three": (NONE, CONSTANT, OVER_PROMPT),
    "two of the three pairs of three": (OVER_BATCH,),
    "best against worst of three": (NONE, CONSTANT, OVER_BATCH),
    "best of three against a random other": (NONE, CONSTANT, OVER_BATCH),
    "one against the dataset's": (NONE, CONSTANT, OVER_BATCH),
    "three against the dataset's": (NONE, CONSTANT, OVER_PROMPT),
    "one against the reference's": (NONE, CONSTANT, OVER_BATCH),
    "two of the dataset": (NO_TERM,),
}
SAMPLED = (
    "two",
    "all pairs of three",
    "two of the three pairs of three",
    "best against worst of three",
    "best of three against a random other",
)
AGAINST_DATASET = ("one against the dataset's", "three against the dataset's")
AGAINST_REFERENCE = ("one against the reference's",)
BOTH = (AS_DRAWN, REWEIGHTED)

# source, labels, responses (each with its baselines), as drawn and reweighted, what is added; all with every loss.
TABLE = [
    ("offline", ("hard", "soft"), ("two of the dataset",), (AS_DRAWN,), ("",)),
    ("ddp", ("exact", "drawn"), ("two of the dataset",), (AS_DRAWN,), ("",)),
    ("dpp", ("exact", "drawn"), SAMPLED, BOTH, ("",)),
    ("dpr", ("hard", "sampled", "soft"), SAMPLED, BOTH, ("",)),
    ("dpr", ("hard", "sampled", "soft"), AGAINST_REFERENCE, BOTH, ("", "optimism")),
    ("dmd", ("hard",), AGAINST_DATASET, BOTH, ("",)),
    ("dpp", ("exact", "drawn"), ("two", "all pairs of three"), BOTH, ("KL",)),
    ("dpr", ("hard", "sampled", "soft"), ("two", "all pairs of three"), BOTH, ("KL",)),
    ("dmd", ("hard",), AGAINST_DATASET, BOTH, ("KL",)),
]
CASES = [
    Case(source, labels, responses, baseline, is_reweighted, also, loss_type)
    for source, all_labels, all_responses, weights, additions in TABLE
    for labels in all_labels
    for responses in all_responses
    for baseline in BASELINES[responses]
    for is_reweighted in weights
    for also in additions
    for loss_type in LOSS_TYPES
]


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found - exact).abs().max() / exact.abs().max()).item()


@pytest.fixture(scope="class", params=CASES, ids=str)
def surrogate(request: pytest.FixtureRequest) -> Surrogate:
    """One combination after the other; its parts are computed once for all tests."""
    return Surrogate(request.param)


class TestEveryCombination:
    def test_at_coefficient_one_it_is_the_gradient_of_the_objective(self, surrogate: Surrogate) -> None:
        assert surrogate.probabilities_N.sum().item() == pytest.approx(1, abs=1e-12)
        assert relative_error(surrogate.expected_gradient(1.0), surrogate.exact_gradient) < EXACT

    def test_at_coefficient_zero_it_is_the_plain_losss(self, surrogate: Surrogate) -> None:
        found, plain, case = surrogate.expected_gradient(0.0), surrogate.plain_gradient, surrogate.case
        torch.testing.assert_close(found, plain, rtol=EXACT, atol=1e-13)
        assert bool(plain.abs().max() > NOTICED) == (case.has_plain_gradient or bool(case.also))

    def test_every_mutation_is_noticed(self, surrogate: Surrogate) -> None:
        present = present_parts(surrogate.case)
        errors = {
            name: relative_error(surrogate.expected_gradient(1.0, mutation), surrogate.exact_gradient)
            for name, mutation in MUTATIONS.items()
            if mutation.part in present
        }
        assert errors
        assert {name: error for name, error in errors.items() if not error > NOTICED} == {}


def test_every_mutation_is_present_in_some_case() -> None:
    assert {mutation.part for mutation in MUTATIONS.values()} == set().union(*map(present_parts, CASES))


SHARING = [
    case for case in CASES if "shared responses" in present_parts(case) and not (case.is_reweighted or case.also)
]


@pytest.mark.parametrize("case", SHARING, ids=str)
def test_a_baseline_that_leaves_out_the_pair_alone_is_far_off(case: Case) -> None:
    """The prompt's other pairs with y_i depend on it too: averaging them is off by a tenth of the gradient and more."""
    surrogate = Surrogate(case)
    found = surrogate.expected_gradient(1.0, MUTATIONS["baseline leaves out the pair alone"])
    assert relative_error(found, surrogate.exact_gradient) > 0.1


KL_MUTATIONS = {
    "negated": lambda score: -score,
    "halved": lambda score: score / 2,
    "doubled": lambda score: 2 * score,
    "left out": lambda score: 0 * score,
}
WEIGHTS = {"as drawn": lambda weights: weights, "inverted": lambda weights: 1 / weights, "left out": torch.ones_like}


class TestKlAlone:
    """KL(πθ ‖ π_ref) from the KL of single tokens along the responses that a policy sampled."""

    @pytest.fixture(scope="class")
    def world(self) -> World:
        return World((3,))

    def found(self, world: World, gradient: str, sampler: torch.Tensor, weights: str = "as drawn") -> torch.Tensor:
        values = sequence_kl(world.token_kl(), world.token_logps(world.theta), world.mask_RC, gradient)
        ratios = importance_weights(world.logps(world.theta), world.logps(sampler).detach()).weights_B
        probabilities = world.logps(sampler).exp().detach()
        return world.gradient((probabilities * WEIGHTS[weights](ratios) * values).sum())

    @pytest.mark.parametrize("sampler", ["theta", "sampler"], ids=["as drawn", "reweighted"])
    def test_the_full_gradient_is_that_of_the_sequence_kl(self, world: World, sampler: str) -> None:
        found = self.found(world, "full", getattr(world, sampler))
        assert relative_error(found, world.gradient(world.kl())) < EXACT

    @pytest.mark.parametrize("sampler", ["theta", "sampler"], ids=["as drawn", "reweighted"])
    @pytest.mark.parametrize(("whose", "is_exact"), [("the other draw's", True), ("its own", False)])
    def test_the_other_draw_may_be_the_baseline_and_its_own_may_not(
        self, world: World, sampler: str, whose: str, is_exact: bool
    ) -> None:
        token_kl_RC, logps_RC, mask_RC = world.token_kl(), world.token_logps(world.theta), world.mask_RC
        first_P, second_P = torch.cartesian_prod(*[torch.arange(len(mask_RC))] * 2).T
        later_PC = later_kl(token_kl_RC, mask_RC)[second_P if whose == "the other draw's" else first_P]
        values_P = sequence_kl(token_kl_RC[first_P], logps_RC[first_P], mask_RC[first_P], "full", later_PC)
        sampled_R = world.logps(getattr(world, sampler)).detach()
        ratios_R = importance_weights(world.logps(world.theta), sampled_R).weights_B
        weights_R = sampled_R.exp() * ratios_R
        found = world.gradient((weights_R[first_P] * weights_R[second_P] * values_P).sum())
        error = relative_error(found, world.gradient(world.kl()))
        assert error < EXACT if is_exact else error > NOTICED

    @pytest.mark.parametrize("mutation", KL_MUTATIONS)
    @pytest.mark.parametrize("sampler", ["theta", "sampler"], ids=["as drawn", "reweighted"])
    def test_a_mutated_score_part_is_noticed(self, world: World, sampler: str, mutation: str) -> None:
        pathwise, full = (self.found(world, gradient, getattr(world, sampler)) for gradient in ("pathwise", "full"))
        found = pathwise + KL_MUTATIONS[mutation](full - pathwise)
        assert relative_error(found, world.gradient(world.kl())) > NOTICED

    @pytest.mark.parametrize("mutation", ["inverted", "left out"])
    def test_mutated_weights_are_noticed(self, world: World, mutation: str) -> None:
        found = self.found(world, "full", world.sampler, mutation)
        assert relative_error(found, world.gradient(world.kl())) > NOTICED

    @pytest.mark.parametrize("gradient", ["pathwise", "full"])
    def test_the_value_is_the_summed_kl_either_way(self, world: World, gradient: str) -> None:
        values = sequence_kl(world.token_kl(), world.token_logps(world.theta), world.mask_RC, gradient)
        torch.testing.assert_close(values, (world.token_kl() * world.mask_RC).sum(-1))

    def test_another_gradient_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="pathwise or full"):
            sequence_kl(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), "exact")


OPTIMISM_MUTATIONS = {"negated": -1.0, "halved": 0.5, "doubled": 2.0, "left out": 0.0}


class TestOptimismAlone:
    """E[log πθ(y)] over responses of the reference: the gradient of the term is that of the expectation."""

    @pytest.fixture(scope="class")
    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Found, over all pairs of a response of the policy and one of the reference; and exact."""
        world = World((3,))
        events = world.events(DESIGNS["one against the reference's"])
        s_R = world.ratios()
        from_reference = events.drawn_by("reference").expand(len(events.chosen_NP), -1)
        terms_N = optimism_term(s_R[events.chosen_NP[:, 0]], s_R[events.rejected_NP[:, 0]], from_reference)
        found = world.gradient((world.probabilities(events, world.theta).detach() * terms_N).sum())
        exact = world.gradient((world.logps(world.reference).exp() * world.logps(world.theta)).sum())
        return found, exact

    def test_its_expected_gradient_is_that_of_the_expectation(
        self, gradients: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        assert relative_error(*gradients) < EXACT

    @pytest.mark.parametrize("mutation", OPTIMISM_MUTATIONS)
    def test_a_mutated_term_is_noticed(self, gradients: tuple[torch.Tensor, torch.Tensor], mutation: str) -> None:
        found, exact = gradients
        assert relative_error(OPTIMISM_MUTATIONS[mutation] * found, exact) > NOTICED
