"""The bilevel-derived terms of SAIL (arXiv:2406.15567), as surrogates whose gradient is exact.

The objective on one source is J(θ) = E_x E_{(y1,y2)~μ} E_{z~P}[ℓ(h_z)]. Where the responses come from the policy, μ
depends on θ, and ∇J has besides E[∇ℓ] the score-function term E[ℓ Σ_i ∇log πθ(y_i)]. The surrogate

    c · Σ_i sg[ℓ̄ − b_i] · log πθ(y_i)

has c times that gradient: c = 1 is the bilevel gradient, c = 0 plain DPO, IPO or SLiC on those pairs. The baseline b_i
must not depend on y_i; then it leaves the expectation as it is, because E[∇log πθ(y)] = 0.

Departure from the published code: there a hook adds −c · log σ(βh) / log π to the gradient of the log-probabilities.
Its sign is the opposite of the term above (both logarithms are negative), the division by log π belongs to no
derivation, it is not averaged over the batch, and it has no baseline. Trained so, responses shrink to nothing (from
11.7 to 2.0 tokens in 150 steps on short reviews). Here the term is the formula's.

Shapes: B pairs of a micro-batch, G pairs of the global batch.
"""

from __future__ import annotations

import torch


def response_term(losses_B: torch.Tensor, baselines_B: torch.Tensor, response_logps_B: torch.Tensor) -> torch.Tensor:
    """sg[ℓ̄ − b] · Σ_i log πθ(y_i): the surrogate of the term for responses that come from the policy.

    A response that makes the loss larger than usual becomes less likely. The value means nothing; the gradient does.

    Args:
        losses_B: ℓ̄ of each pair; detached here.
        baselines_B: b of each pair, independent of the pair's own responses.
        response_logps_B: log πθ(y1) + log πθ(y2), the sum over both responses of the pair, with gradient.

    Returns:
        (B,), to be scaled by the source's gradient coefficient.

    Source: the second term of ∇J, arXiv:2406.15567; baselines as in REINFORCE (Williams 1992).
    """
    return (losses_B - baselines_B).detach() * response_logps_B


def leave_one_out_baseline(
    losses_G: torch.Tensor, pair_ids_G: torch.Tensor, pair_ids_B: torch.Tensor, empty: float
) -> torch.Tensor:
    """b_i: the mean loss of the other pairs of the same source in the whole global batch.

    Copies of a pair share its responses, so all of them are left out together. Averaging over a micro-batch instead
    would make the result depend on how memory was cut.

    Args:
        losses_G: ℓ̄ of every pair of one source in the global batch; detached here.
        pair_ids_G: which pair each of them is; equal integers mean the same pair.
        pair_ids_B: the pairs to compute a baseline for.
        empty: what to return where no other pair is left, such as ℓ(0), which depends on no response.

    Returns:
        (B,) without gradient.

    Source: leave-one-out baselines, Kool et al. 2019; independence of y_i is what keeps the term unbiased.
    """
    other_BG = (pair_ids_B.unsqueeze(1) != pair_ids_G.unsqueeze(0)).to(losses_G.dtype)
    num_others_B = other_BG.sum(-1)
    means_B = (other_BG @ losses_G.detach()) / num_others_B.clamp(min=1)
    return torch.where(num_others_B > 0, means_B, torch.full_like(means_B, empty))
