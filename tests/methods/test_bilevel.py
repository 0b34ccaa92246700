"""The bilevel terms one by one: hand-worked values, stop-gradients, and what a baseline may average.

That they are exact together stands in `test_enumeration.py`.
"""

from __future__ import annotations

import math

import pytest
import torch

from align_cli.methods.bilevel import (
    importance_weights,
    label_term,
    leave_one_out_baseline,
    policy_labels,
    response_term,
)


class TestResponseTerm:
    def test_it_pushes_down_responses_that_cost_more_than_usual(self) -> None:
        logps = torch.tensor([-2.0, -2.0], requires_grad=True)
        response_term(torch.tensor([1.0, 0.2]), torch.tensor([0.5, 0.5]), logps).sum().backward()
        assert logps.grad is not None
        assert logps.grad.tolist() == pytest.approx([0.5, -0.3])  # descent lowers the first, raises the second

    def test_it_sends_no_gradient_through_loss_or_baseline(self) -> None:
        losses, baselines, logps = (torch.ones(2, requires_grad=True) for _ in range(3))
        response_term(losses, baselines, logps).sum().backward()
        assert losses.grad is None and baselines.grad is None and logps.grad is not None


class TestLabelTerm:
    def test_it_has_its_hand_worked_value_and_gradient(self) -> None:
        """q = ¾, ℓ(h) = 2, ℓ(−h) = 4, log-odds 0: both log pθ are −log 2, their gradients ½ and −½."""
        logits = torch.zeros(1, requires_grad=True)
        term = label_term(torch.tensor([2.0]), torch.tensor([4.0]), torch.tensor([0.75]), logits)
        term.sum().backward()
        assert term.item() == pytest.approx(-(0.75 * 2 + 0.25 * 4) * math.log(2))
        assert logits.grad is not None and logits.grad.item() == pytest.approx((0.75 * 2 - 0.25 * 4) / 2)

    def test_it_sends_no_gradient_through_losses_or_labels(self) -> None:
        forward, backward, labels, logits = (torch.full((2,), 0.5, requires_grad=True) for _ in range(4))
        label_term(forward, backward, labels, logits).sum().backward()
        assert forward.grad is None and backward.grad is None and labels.grad is None and logits.grad is not None

    def test_policy_labels_are_bradley_terry_without_gradient(self) -> None:
        labels = policy_labels(torch.tensor([0.0, math.log(3)], requires_grad=True))
        assert labels.tolist() == pytest.approx([0.5, 0.75])
        assert not labels.requires_grad


class TestImportanceWeights:
    def test_they_are_the_ratio_of_probabilities_up_to_the_cap(self) -> None:
        logps = torch.tensor([math.log(0.2), math.log(0.9)], requires_grad=True)
        found = importance_weights(logps, torch.tensor([math.log(0.4), math.log(0.3)]), cap=2.0)
        assert found.weights_B.tolist() == pytest.approx([0.5, 2.0])
        assert found.truncated_B.tolist() == [False, True]
        assert not found.weights_B.requires_grad

    def test_a_weight_that_is_the_cap_itself_was_not_cut(self) -> None:
        found = importance_weights(torch.tensor([-1.0]), torch.tensor([-1.0]), cap=1.0)
        assert (found.weights_B.tolist(), found.truncated_B.tolist()) == ([1.0], [False])


# One prompt with responses 0, 1, 2 and all their pairs, then another with responses 3 and 4.
LOSSES = torch.tensor([1.0, 2.0, 4.0, 10.0])
PROMPTS = torch.tensor([0, 0, 0, 1])
RESPONSES = torch.tensor([[0, 1], [0, 2], [1, 2], [3, 4]])


def baselines(
    prompts: list[int],
    responses: list[int],
    losses: torch.Tensor = LOSSES,
    of_prompts: torch.Tensor = PROMPTS,
    of_responses: torch.Tensor = RESPONSES,
    empty: float = 0.25,
) -> list[float]:
    found = leave_one_out_baseline(
        losses, of_prompts, of_responses, torch.tensor(prompts), torch.tensor(responses), empty
    )
    return found.tolist()


class TestLeaveOneOutBaseline:
    def test_it_is_the_loss_of_the_prompts_pairs_without_the_response(self) -> None:
        assert baselines([0, 0, 0], [0, 1, 2]) == [4.0, 2.0, 1.0]

    def test_of_several_such_pairs_it_is_the_mean(self) -> None:
        """Four responses, all six pairs: those without response 0 are 1 against 2, 1 against 3 and 2 against 3."""
        responses = torch.combinations(torch.arange(4))
        losses = torch.tensor([50.0, 60.0, 70.0, 1.0, 2.0, 6.0])
        assert baselines([5], [0], losses, torch.full((6,), 5), responses) == [3.0]

    def test_where_the_prompt_has_none_it_is_the_mean_of_other_prompts_pairs(self) -> None:
        assert baselines([1, 1], [3, 4]) == [pytest.approx(7 / 3)] * 2

    def test_where_every_pair_of_the_prompt_has_the_response_other_prompts_stand_in(self) -> None:
        """The third pair of the three stands in another batch: 0 is in both that are left, 1 and 2 in one each."""
        kept = torch.tensor([0, 1, 3])
        assert baselines([0, 0, 0], [0, 1, 2], LOSSES[kept], PROMPTS[kept], RESPONSES[kept]) == [10.0, 2.0, 1.0]

    def test_with_no_pair_left_it_is_what_the_caller_says(self) -> None:
        one = torch.tensor([0])
        assert baselines([0, 0], [0, 1], LOSSES[one], PROMPTS[one], RESPONSES[one]) == [0.25, 0.25]

    def test_copies_of_a_pair_are_left_out_with_it(self) -> None:
        twice = torch.tensor([0, 0, 0, 2])
        assert baselines([0], [0], LOSSES[twice], PROMPTS[twice], RESPONSES[twice]) == [4.0]
        copies = torch.tensor([3, 3, 0])
        assert baselines([1], [3], LOSSES[copies], PROMPTS[copies], RESPONSES[copies]) == [1.0]

    def test_pairs_that_were_chosen_with_the_help_of_the_response_are_left_out(self) -> None:
        """Best against worst of three: the third response is in no pair, but the choice depended on it."""
        responses = torch.tensor([[0, 1, 2], [3, 4, 5]])
        two, prompts = torch.tensor([1.0, 3.0]), torch.tensor([0, 0])
        assert baselines([0, 0, 0], [0, 1, 2], two, prompts, responses) == [3.0] * 3
        assert baselines([0], [2], two, prompts, torch.tensor([[0, 1, 2], [2, 4, 5]])) == [0.25]

    def test_what_fills_up_shorter_pairs_is_no_response(self) -> None:
        responses = torch.tensor([[0, 1, -1], [2, 3, -1]])
        assert baselines([0], [0], torch.tensor([1.0, 3.0]), torch.tensor([0, 0]), responses) == [3.0]

    def test_it_does_not_move_with_pairs_that_hold_the_response(self) -> None:
        """Whatever y_i does to the pairs that it is in, its own baseline stays."""
        for response in range(3):
            contains = RESPONSES.eq(response).any(1)
            changed = torch.where(contains, LOSSES + 100, LOSSES)
            assert baselines([0], [response], changed) == baselines([0], [response])

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_rows_of_a_micro_batch_get_the_numbers_of_the_whole(self, size: int) -> None:
        prompts, responses = [0, 0, 0, 0, 0, 0, 1, 1], [0, 1, 0, 2, 1, 2, 3, 4]
        whole = baselines(prompts, responses)
        parts = [
            baselines(prompts[start : start + size], responses[start : start + size])
            for start in range(0, len(prompts), size)
        ]
        assert sum(parts, []) == whole  # noqa: RUF017

    def test_it_carries_no_gradient(self) -> None:
        losses = LOSSES.clone().requires_grad_()
        found = leave_one_out_baseline(losses, PROMPTS, RESPONSES, torch.tensor([0]), torch.tensor([0]), 0.0)
        assert not found.requires_grad
