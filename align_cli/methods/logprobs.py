"""Log-probabilities of responses and their exact token-level KL, from logits.

Shapes: B sequences, C response positions, V vocabulary.
"""

from __future__ import annotations

import torch


def token_logps(logits_BCV: torch.Tensor, targets_BC: torch.Tensor) -> torch.Tensor:
    """Log-probability of each target token: log softmax(logits)[target].

    Args:
        logits_BCV: unnormalised scores, any float type; the softmax is taken in float32 or wider.
        targets_BC: token ids in [0, V).

    Returns:
        (B, C), each at most 0, with gradient to the logits.
    """
    wide_BCV = logits_BCV if logits_BCV.dtype == torch.float64 else logits_BCV.float()
    picked_BC = wide_BCV.gather(-1, targets_BC.unsqueeze(-1)).squeeze(-1)
    return picked_BC - wide_BCV.logsumexp(-1)


def sequence_logps(logps_BC: torch.Tensor, mask_BC: torch.Tensor) -> torch.Tensor:
    """log π(y|x): the sum of the response's token log-probabilities.

    Args:
        logps_BC: per-token log-probabilities; positions outside the mask may hold anything finite.
        mask_BC: 1 on response tokens, 0 elsewhere.

    Returns:
        (B,).
    """
    return (logps_BC * mask_BC).sum(-1)


def token_kl(logits_BCV: torch.Tensor, reference_logits_BCV: torch.Tensor) -> torch.Tensor:
    """KL(π(·|x, y_<t) ‖ π_ref(·|x, y_<t)) at each position, over the whole vocabulary.

    Summed over a response that was sampled from π, it is an unbiased estimate of the sequence KL with much less
    variance than log π(y) − log π_ref(y), which it Rao-Blackwellises (arXiv:2504.10637).

    Args:
        logits_BCV: the policy's logits.
        reference_logits_BCV: the reference's logits at the same positions.

    Returns:
        (B, C), each at least 0 up to rounding, in nats.
    """
    wide = torch.float64 if logits_BCV.dtype == torch.float64 else torch.float32
    logps_BCV = logits_BCV.to(wide).log_softmax(-1)
    reference_logps_BCV = reference_logits_BCV.to(wide).log_softmax(-1)
    return (logps_BCV.exp() * (logps_BCV - reference_logps_BCV)).sum(-1)
