"""The optimism term of XPO (arXiv:2405.21046) and SELM (arXiv:2405.19332), on responses that the reference sampled.

Both add to DPO's loss a multiple of E_{y~π_ref}[log πθ(y)]: what the reference says already becomes less likely, so
that the policy looks elsewhere. XPO has α log πθ(y), SELM αβ (log πθ(y) − log π_ref(y)); the gradients have one form,
and the coefficient here is XPO's α or SELM's αβ.

Shapes: B pairs.
"""

from __future__ import annotations

import torch


def optimism_term(
    chosen_logratios_B: torch.Tensor, rejected_logratios_B: torch.Tensor, from_reference_B2: torch.Tensor
) -> torch.Tensor:
    """The mean of s(y) over those of a pair's responses that the reference sampled; 0 where it sampled none.

    Args:
        chosen_logratios_B: s of the chosen responses, in nats.
        rejected_logratios_B: s of the rejected ones.
        from_reference_B2: whether the reference sampled the chosen one, and the rejected one.

    Returns:
        (B,), to be scaled by the coefficient.

    Source: Algorithm 1, arXiv:2405.21046; the reparametrised objective of arXiv:2405.19332.
    """
    logratios_B2 = torch.stack([chosen_logratios_B, rejected_logratios_B], dim=1)
    return (from_reference_B2 * logratios_B2).sum(1) / from_reference_B2.sum(1).clamp(min=1)
