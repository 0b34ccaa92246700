"""A reward that is linear in features, fitted to preferences: the one minimum of a convex loss.

Shapes: N pairs, H features.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

MOST_STEPS = 1000
TOLERANCE = 1e-9
"""Of the gradient's largest entry, and of a step: far below what a score is shown with."""


def linear_reward_loss(
    weight_H: torch.Tensor,
    chosen_NH: torch.Tensor,
    rejected_NH: torch.Tensor,
    labels_N: torch.Tensor,
    margins_N: torch.Tensor,
    centering: float = 0.0,
) -> torch.Tensor:
    """TRL's loss of a reward model, for soft labels as well.

        h = r_chosen − r_rejected − m,   r = w·φ
        −Σ [ q log σ(h) + (1 − q) log σ(−h) ] / N + c Σ (r_chosen + r_rejected)² / N

    Args:
        weight_H: w.
        chosen_NH: features of the better responses.
        rejected_NH: of the others.
        labels_N: q, in [0, 1].
        margins_N: m.
        centering: c.

    Returns:
        The mean over pairs, a scalar.

    Source: Eq. 1 of arXiv:2203.02155; m as arXiv:2307.09288, Eq. 2; c as arXiv:2312.09244, Eq. 2.
    """
    chosen_N, rejected_N = chosen_NH @ weight_H, rejected_NH @ weight_H
    differences_N = chosen_N - rejected_N - margins_N
    losses_N = softplus(-differences_N) + (1 - labels_N) * differences_N
    return (losses_N + centering * (chosen_N + rejected_N) ** 2).mean()


def fit_linear_reward(
    chosen_NH: torch.Tensor,
    rejected_NH: torch.Tensor,
    labels_N: torch.Tensor,
    margins_N: torch.Tensor,
    *,
    ridge: float,
    centering: float = 0.0,
) -> torch.Tensor:
    """The weights with the least loss, |w|² / 2 times `ridge` beside it.

    Features are scaled first so that each one's differences within pairs have a root mean square of 1: the penalty then
    means the same whatever a model's features are; the weights are returned for the features as they are.

    Args:
        chosen_NH: in double precision; none without a difference to its partner is of use.
        rejected_NH: likewise.
        labels_N: in [0, 1].
        margins_N: by how much the better response is to be better.
        ridge: above 0.
        centering: at least 0.

    Returns:
        w, [H].
    """
    scales_H = (chosen_NH - rejected_NH).pow(2).mean(0).sqrt()
    scales_H = torch.where(scales_H > 0, scales_H, torch.ones_like(scales_H))
    chosen_NH, rejected_NH = chosen_NH / scales_H, rejected_NH / scales_H
    weight_H = torch.zeros_like(scales_H, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_H], max_iter=MOST_STEPS, tolerance_grad=TOLERANCE, tolerance_change=TOLERANCE**2,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = linear_reward_loss(weight_H, chosen_NH, rejected_NH, labels_N, margins_N, centering)
        loss = loss + ridge / 2 * weight_H.pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight_H.detach() / scales_H
