"""Pairwise preference losses ℓ(h) on the margin h = s(y_w) − s(y_l), with s(y) = log πθ(y|x) − log πref(y|x).

Hard labels are labels of 1; a label q in between weighs both directions, which is the expectation over who wins.
SLiC stands here with a reference (arXiv:2309.06657), where arXiv:2305.10425 has none: this is TRL's `hinge`, and it
makes the three losses functions of one margin. IPO's margin is normalised by length, as TRL has it after asking the
paper's authors; the paper's text does not say so.

SimPO (arXiv:2405.14734) stands beside them as a baseline: its s(y) = log πθ(y|x) has no reference, is normalised by
length too, and has to win by a target margin γ. So does INPO (arXiv:2407.00617): IPO's square on the margin as it is.

Shapes: B pairs.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

LENGTH_NORMALISED = ("ipo", "simpo")
REFERENCE_FREE = ("simpo",)


def preference_margin(
    chosen_logratios_B: torch.Tensor,
    rejected_logratios_B: torch.Tensor,
    chosen_lengths_B: torch.Tensor,
    rejected_lengths_B: torch.Tensor,
    loss_type: str,
) -> torch.Tensor:
    """The margin that the loss looks at: s(y_w) − s(y_l), for IPO and SimPO each s divided by its response's length.

    Args:
        chosen_logratios_B: s of the chosen responses, in nats: for SimPO log πθ alone.
        rejected_logratios_B: s of the rejected responses.
        chosen_lengths_B: response lengths in tokens; a length of 0 counts as 1.
        rejected_lengths_B: likewise.
        loss_type: `sigmoid`, `hinge`, `ipo`, `simpo`, or any other whose margin is that of whole responses.

    Returns:
        (B,) margins; swapping the responses changes their sign and nothing else.
    """
    if loss_type in LENGTH_NORMALISED:
        chosen_logratios_B = chosen_logratios_B / chosen_lengths_B.clamp(min=1)
        rejected_logratios_B = rejected_logratios_B / rejected_lengths_B.clamp(min=1)
    return chosen_logratios_B - rejected_logratios_B


def preference_loss(margins_B: torch.Tensor, loss_type: str, beta: float, gamma: float = 0.0) -> torch.Tensor:
    """ℓ(h) for one direction.

    | loss_type | ℓ(h) | source |
    |---|---|---|
    | sigmoid | −log σ(βh) | DPO, Eq. 7, arXiv:2305.18290 |
    | ipo | (h − 1/(2β))² | IPO, Eq. 17, arXiv:2310.12036 |
    | inpo | (h − 1/(2β))² | INPO, Algorithm 1, arXiv:2407.00617 |
    | hinge | max(0, 1 − βh) | SLiC, arXiv:2305.10425 and arXiv:2309.06657 |
    | simpo | −log σ(βh − γ) | SimPO, Eq. 6, arXiv:2405.14734 |

    Args:
        margins_B: h from `preference_margin`.
        loss_type: `sigmoid`, `ipo`, `inpo`, `hinge` or `simpo`.
        beta: above 0 (IPO's τ, INPO's η).
        gamma: SimPO's target margin, at least 0; the others have none.

    Returns:
        (B,), each at least 0.

    Raises:
        ValueError: for another loss type.
    """
    if loss_type == "sigmoid":
        return -logsigmoid(beta * margins_B)
    if loss_type in ("ipo", "inpo"):
        return (margins_B - 1 / (2 * beta)) ** 2
    if loss_type == "hinge":
        return torch.relu(1 - beta * margins_B)
    if loss_type == "simpo":
        return -logsigmoid(beta * margins_B - gamma)
    raise ValueError(f"unknown loss type {loss_type!r}")


def expected_preference_loss(
    forward_losses_B: torch.Tensor, backward_losses_B: torch.Tensor, labels_B: torch.Tensor
) -> torch.Tensor:
    """ℓ̄ = q ℓ(h) + (1 − q) ℓ(−h): the loss in expectation over which response wins.

    Args:
        forward_losses_B: ℓ(h) from `preference_loss`, the loss if the chosen response wins.
        backward_losses_B: ℓ(−h), the loss if the rejected one wins.
        labels_B: q, the probability that the chosen response is the better one, in [0, 1]; 1 is a hard label.

    Returns:
        (B,).
    """
    return labels_B * forward_losses_B + (1 - labels_B) * backward_losses_B
