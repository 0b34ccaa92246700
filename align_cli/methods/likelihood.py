"""The negative log-likelihood of the response that won, beside a preference loss (Iterative RPO, arXiv:2404.19733).

A preference loss asks for a margin alone, and both responses may become less likely while it grows; this term holds
the winner up. It has no reference, and counts a token of a long response for less than one of a short response.

Shapes: B pairs.
"""

from __future__ import annotations

import torch


def nll_term(
    chosen_logps_B: torch.Tensor,
    rejected_logps_B: torch.Tensor,
    chosen_lengths_B: torch.Tensor,
    rejected_lengths_B: torch.Tensor,
    labels_B: torch.Tensor,
) -> torch.Tensor:
    """−q log πθ(y_w)/|y_w| − (1 − q) log πθ(y_l)/|y_l|: that of the winner, in expectation over who wins.

    Args:
        chosen_logps_B: log πθ of the chosen responses, in nats, with gradient.
        rejected_logps_B: likewise of the rejected ones; without weight under hard labels.
        chosen_lengths_B: response lengths in tokens; a length of 0 counts as 1.
        rejected_lengths_B: likewise.
        labels_B: q, the probability that the chosen response is the better one.

    Returns:
        (B,), each at least 0, to be scaled by the coefficient (the paper's α).

    Source: Eq. 1, arXiv:2404.19733, whose labels are hard.
    """
    chosen_B = labels_B * chosen_logps_B / chosen_lengths_B.clamp(min=1)
    rejected_B = (1 - labels_B) * rejected_logps_B / rejected_lengths_B.clamp(min=1)
    return -(chosen_B + rejected_B)
