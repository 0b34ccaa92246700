"""The loss where a policy tells no response from the other, by hand and against `methods.preference`.

That TRL's are what TRL computes is seen in `test_equality_with_trl`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from align_cli.methods.preference import preference_loss
from align_cli.recipe.sections.method import MethodSection
from align_cli.training.zero_margin import loss_at_zero_margin

LN_2 = math.log(2)


def method(**options: Any) -> MethodSection:
    return MethodSection.model_validate({"sources": {"offline": {"mixing": 1.0}}, **options})


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge", "simpo"])
@pytest.mark.parametrize(("beta", "gamma"), [(0.1, 0.5), (2.0, 1.6), (0.5, 0.0)])
def test_aligns_own_losses_are_there_at_a_margin_of_zero(loss_type: str, beta: float, gamma: float) -> None:
    margin = torch.zeros(1, dtype=torch.float64)
    expected = preference_loss(margin, loss_type, beta, gamma if loss_type == "simpo" else 0.0).item()
    found = loss_at_zero_margin(method(loss_type=loss_type, beta=beta, simpo_gamma=gamma))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"loss_type": "dpo"}, LN_2),
        ({"loss_type": "robust", "label_smoothing": 0.3}, LN_2),
        ({"loss_type": "sigmoid", "f_divergence_type": "js_divergence"}, LN_2),
        ({"loss_type": ["sigmoid", "hinge"]}, LN_2 + 1),
        ({"loss_type": ["robust", "aot"], "loss_weights": [0.25, 0.75]}, LN_2),
        ({"loss_type": ["ipo", "bco_pair"], "loss_weights": [0.5, 2.0], "beta": 0.1}, 0.5 * 25 + 4 * LN_2),
        ({"loss_type": "sft"}, None),
        ({"loss_type": ["sigmoid", "sft"]}, None),
        ({"loss_type": "sigmoid", "use_weighting": True}, None),
    ],
)
def test_a_list_of_losses_is_at_their_weighted_sum_if_all_are_known(
    options: dict[str, Any], value: float | None
) -> None:
    assert loss_at_zero_margin(method(**options)) == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize("options", [{"beta": 1e-300, "loss_type": "ipo"}, {"simpo_gamma": 1e6, "loss_type": "simpo"}])
def test_values_beyond_all_measure_are_no_error(options: dict[str, Any]) -> None:
    found = loss_at_zero_margin(method(**options))
    assert found is not None and found >= 1e6
