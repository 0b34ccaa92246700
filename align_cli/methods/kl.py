"""Reverse KL to the reference as a loss, on responses that were sampled from the policy (SAIL-RevKL, arXiv:2606.31524).

KL(πθ ‖ πref) = E_{y~πθ} Σ_t KL_t, with KL_t the exact KL over the vocabulary at position t. Its gradient has two parts:

    E[ Σ_t ∇KL_t ]                                       the pathwise part: low variance, tokens held fixed
    E[ Σ_t ∇log πθ(y_t) (Σ_{u>t} KL_u − b_t) ]           how each token changes which prefixes the later KL is taken on

The first alone is a regulariser, not that gradient. The sum runs over u > t: for u ≤ t, KL_u does not depend on y_t.
b_t is any baseline that does not depend on y, since E[∇log πθ(y_t)] = 0: here the later KL of another draw for the same
prompt, at the same position (leave-one-out of two, Kool et al. 2019). Without one every token is made less likely.

Shapes: B sequences, C response positions.
"""

from __future__ import annotations

import torch


def sequence_kl(
    token_kl_BC: torch.Tensor,
    logps_BC: torch.Tensor,
    mask_BC: torch.Tensor,
    gradient: str,
    baselines_BC: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """Σ_t KL_t, with the gradient that is asked for.

    Args:
        token_kl_BC: from `logprobs.token_kl`, with gradient.
        logps_BC: log πθ of each sampled token, with gradient.
        mask_BC: 1 on the response.
        gradient: `pathwise` or `full`.
        baselines_BC: b_t, in nats, none of which may depend on its own sequence; of `full` alone.

    Returns:
        (B,); its value is the estimate of the sequence KL in nats either way.

    Raises:
        ValueError: for another `gradient`.
    """
    if gradient not in ("pathwise", "full"):
        raise ValueError(f"gradient is {gradient!r}; it must be pathwise or full")
    kl_B = (token_kl_BC * mask_BC).sum(-1)
    if gradient == "pathwise":
        return kl_B
    score_B = ((later_kl(token_kl_BC, mask_BC) - baselines_BC) * logps_BC * mask_BC).sum(-1)
    return kl_B + score_B - score_B.detach()


def later_kl(token_kl_BC: torch.Tensor, mask_BC: torch.Tensor) -> torch.Tensor:
    """(B, C) Σ_{u>t} KL_u, in nats, without gradient; 0 behind a response's end. Arguments as of `sequence_kl`."""
    masked_BC = (token_kl_BC * mask_BC).detach()
    return masked_BC.flip(-1).cumsum(-1).flip(-1) - masked_BC
