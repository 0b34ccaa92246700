"""Losses that regress log-ratios on numbers that a labeler gives: SPPO (arXiv:2405.00675) and REBEL (arXiv:2404.16767).

s(y) = log πθ(y|x) − log π_ref(y|x), with π_ref the policy of the round before, which sampled the responses. Both papers
weigh the reward by η; here β = 1/η, so that β ties to the reference as it does in every other loss.

SPPO regresses each response by itself on η(P̂ − ½), with P̂ the probability that it wins against a response of the
policy's. It is no function of the margin s(y_w) − s(y_l): both responses may rise together. REBEL is one of the margin:
its difference of rewards takes the place of IPO's constant. Hard labels make SPPO's targets 1 and 0, which is TRL's
`sppo_hard`.

Shapes: B pairs.
"""

from __future__ import annotations

import torch


def sppo_loss(
    chosen_logratios_B: torch.Tensor,
    rejected_logratios_B: torch.Tensor,
    chosen_win_rates_B: torch.Tensor,
    rejected_win_rates_B: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """(s(y_w) − (P̂_w − ½)/β)² + (s(y_l) − (P̂_l − ½)/β)².

    Args:
        chosen_logratios_B: s of the chosen responses, in nats.
        rejected_logratios_B: s of the rejected ones.
        chosen_win_rates_B: P̂(y_w ≻ π_ref | x), in [0, 1].
        rejected_win_rates_B: P̂(y_l ≻ π_ref | x).
        beta: 1/η, above 0.

    Returns:
        (B,), each at least 0.

    Source: Eq. 4.7, arXiv:2405.00675, summed over the pair's two responses.
    """
    chosen_errors_B = chosen_logratios_B - (chosen_win_rates_B - 0.5) / beta
    rejected_errors_B = rejected_logratios_B - (rejected_win_rates_B - 0.5) / beta
    return chosen_errors_B**2 + rejected_errors_B**2


def rebel_loss(margins_B: torch.Tensor, reward_gaps_B: torch.Tensor, beta: float) -> torch.Tensor:
    """(βh − (r(x, y_w) − r(x, y_l)))².

    Args:
        margins_B: h = s(y_w) − s(y_l), in nats.
        reward_gaps_B: the difference of the labeler's scores; swapping the responses changes both signs, and no loss.
        beta: 1/η, above 0.

    Returns:
        (B,), each at least 0.

    Source: Algorithm 1, arXiv:2404.16767.
    """
    return (beta * margins_B - reward_gaps_B) ** 2
