"""A reference between two policies: the geometric mixture of the initial and the previous one (INPO, arXiv:2407.00617).

Normalised, it is π_ref ∝ π_init^w π_prev^(1 − w). The constant of that depends on the prompt alone and cancels in every
margin, so that two log-probabilities of a response are all that a loss needs. It moves with the rounds as the previous
policy does, and is held to the initial one all the same.

Shapes: S responses.
"""

from __future__ import annotations

import torch


def mixed_reference_logps(
    initial_logps_S: torch.Tensor, previous_logps_S: torch.Tensor, initial_weight: float
) -> torch.Tensor:
    """w log π_init(y|x) + (1 − w) log π_prev(y|x).

    Args:
        initial_logps_S: log-probabilities of responses under the initial policy, in nats.
        previous_logps_S: under the policy of the round before.
        initial_weight: w in [0, 1], INPO's τ/η; 0 is the previous policy alone, 1 the initial one.

    Returns:
        (S,), up to a constant of each prompt.

    Source: h_t in the loss of Algorithm 1, arXiv:2407.00617.
    """
    return initial_weight * initial_logps_S + (1 - initial_weight) * previous_logps_S
