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
        batch_size: pairs scored together.
    """

    policy: Policy
    reference: Policy
    beta: float
    batch_size: int
    name: str = "policy"

    def prefer(self, pairs: Sequence[Preference]) -> list[float]:
        """The probability in [0, 1] that each pair's `chosen` is the better response; the pairs carry token ids."""
        import torch

        from align_cli.methods.bilevel import policy_labels
        from align_cli.models.scoring import pad_batch, response_logps

        labels: list[float] = []
        for start in range(0, len(pairs), self.batch_size):
            chunk = pairs[start : start + self.batch_size]
            tokens = pad_batch(
                [pair.prompt_ids or [] for pair in chunk] * 2,
                [pair.chosen_ids or [] for pair in chunk] + [pair.rejected_ids or [] for pair in chunk],
                self.policy.tokenizer.pad_token_id,
            ).to(self.policy.model.device)
            with torch.no_grad():
                ratios_2B = response_logps(self.policy.model, tokens) - response_logps(self.reference.model, tokens)
                chosen_B, rejected_B = ratios_2B.chunk(2)
                labels += policy_labels(self.beta * (chosen_B - rejected_B)).tolist()
        return labels
