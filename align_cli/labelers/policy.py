"""The labeler `policy`: the policy's own preference, pθ(y1 ≻ y2) = σ(β(s1 − s2)).

What it writes down is for people to inspect: training computes these labels anew at every step, from the policy as it
then is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from align_cli.artifacts.records import Preference
from align_cli.models.load import Policy


@dataclass(frozen=True)
class PolicyLabeler:
    """Prefers what the policy's implicit reward prefers.

    Args:
        policy: the policy at label time.
        reference: the model that its log-ratios are taken against.
        beta: the loss's β.
    """

    policy: Policy
    reference: Policy
    beta: float
    name: str = "policy"

    def prefer(self, pairs: Sequence[Preference]) -> list[float]:
        """The probability in [0, 1] that each pair's `chosen` is the better response.

        Args:
            pairs: with token ids; they are scored together.
        """
        return own_labels(self.policy, self.reference, pairs, self.beta)


def own_labels(policy: Policy, reference: Policy, pairs: Sequence[Preference], beta: float) -> list[float]:
    """The policy's own labels of pairs; see `PolicyLabeler`."""
    import torch

    from align_cli.methods.bilevel import policy_labels
    from align_cli.models.scoring import implicit_reward_margins

    margins = implicit_reward_margins(policy, reference, pairs, beta)
    labels: list[float] = policy_labels(torch.tensor(margins)).tolist()
    return labels
