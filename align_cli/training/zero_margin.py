"""The loss of a policy that equals its reference: where training stands that has not taught anything.

Read off TRL's DPOTrainer 1.16 and `methods.preference` by setting every log-ratio to 0. All of the losses that compare
two log-ratios have this value whenever both are the same. SimPO has no reference: a policy that it has taught nothing
need not be there, but one that is finds chosen and rejected responses equally likely.

| loss | at a margin of 0 |
|---|---|
| sigmoid, sigmoid_norm, robust, aot, aot_unpaired, whatever the f-divergence | ln 2 |
| nca_pair, bco_pair | 2 ln 2 |
| hinge, apo_zero, apo_down | 1 |
| ipo, inpo | 1/(2β)² |
| sppo_hard | 2 · 1/(2β)² |
| simpo | −log σ(−γ) = γ + log(1 + e^−γ) |
| exo_pair | −ln 2 − ½ log(ε(1 − ε)) |
| discopop | ½ (ln 2 + 1) |
| sft, and any loss with the winner's likelihood beside it | depends on the policy |
| sppo, rebel | depends on what the labeler gave |
"""

from __future__ import annotations

import math

from align_cli.recipe.sections.method import MethodSection

LN_2 = math.log(2)
"""DPO's loss of a policy that equals its reference, or has learnt nothing of what the labels say."""


def loss_at_zero_margin(method: MethodSection) -> float | None:
    """The loss at a margin of 0, the weighted sum of a list of losses; None where it depends on the policy."""
    if method.use_weighting or method.nll.coefficient:
        return None
    weights = method.loss_weights or [1.0] * len(method.loss_types)
    values = [_value(method, loss_type) for loss_type in method.loss_types]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return sum(weight * value for weight, value in zip(weights, known, strict=True))


def _value(method: MethodSection, loss_type: str) -> float | None:
    squared = 0.5 / method.beta * (0.5 / method.beta)
    values = {
        **dict.fromkeys(("sigmoid", "sigmoid_norm", "robust", "aot", "aot_unpaired"), LN_2),
        **dict.fromkeys(("nca_pair", "bco_pair"), 2 * LN_2),
        **dict.fromkeys(("hinge", "apo_zero", "apo_down"), 1.0),
        **dict.fromkeys(("ipo", "inpo"), squared),
        "sppo_hard": 2 * squared,
        "simpo": method.simpo_gamma + math.log1p(math.exp(-method.simpo_gamma)),
        "discopop": (LN_2 + 1) / 2,
    }
    if loss_type == "exo_pair" and method.label_smoothing:
        return -LN_2 - math.log(method.label_smoothing * (1 - method.label_smoothing)) / 2
    return values.get(loss_type)
