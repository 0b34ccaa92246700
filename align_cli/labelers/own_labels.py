"""The policy's own labels: its preference pθ(y1 ≻ y2) = σ(β(s1 − s2)), by its implicit reward.

What is written down is for people to inspect: training computes these labels anew at every step, from the policy as it
then is.
"""

from __future__ import annotations

from collections.abc import Sequence

from align_cli.artifacts.records import Preference
from align_cli.models.load import Policy

NAME = "policy"
"""The labeler's, in the records of pairs."""
OWN_LABELS = "align_cli.labelers.own_labels:own_labels"
"""Names the measure to whoever takes it."""


def own_labels(policy: Policy, reference: Policy, pairs: Sequence[Preference], beta: float) -> list[float]:
    """The probability in [0, 1] that each pair's `chosen` is the better response.

    Args:
        policy: the policy at label time.
        reference: the model that its log-ratios are taken against.
        pairs: with token ids; they are scored together.
        beta: the loss's β.
    """
    import torch

    from align_cli.methods.bilevel import policy_labels
    from align_cli.models.scoring import implicit_reward_margins

    margins = implicit_reward_margins(policy, reference, pairs, beta)
    labels: list[float] = policy_labels(torch.tensor(margins)).tolist()
    return labels
