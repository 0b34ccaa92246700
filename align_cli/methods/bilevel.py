"""The bilevel-derived terms of SAIL (arXiv:2406.15567), as surrogates whose gradient is exact.

The objective on one source is J(θ) = E_x E_{(y1,y2)~μ} E_{z~P}[ℓ(h_z)]. Where the responses come from the policy, μ
depends on θ; where the label does, P does; and ∇J has besides E[∇ℓ] two score-function terms:

    E[ ℓ(h_z) Σ_i ∇log πθ(y_i) ]     `response_term`, over the responses that come from the policy
    E[ ℓ(h_z) ∇log pθ(z) ]           `label_term`, where labels come from the policy

Scaled by c, the surrogates have c times these gradients: c = 1 is the bilevel gradient, c = 0 plain DPO, IPO or SLiC on
those pairs. A baseline b_i that does not depend on y_i leaves the first one's expectation as it is, because
E[∇log πθ(y)] = 0; the second is summed over z instead of sampled, and needs none.

Departure from the published code: there a hook adds −c · log σ(βh) / log π to the gradient of the log-probabilities.
Its sign is the opposite of the term above (both logarithms are negative), the division by log π belongs to no
derivation, it is not averaged over the batch, and it has no baseline. Trained so, responses shrink to nothing (from
11.7 to 2.0 tokens in 150 steps on short reviews). Here the terms are the formula's.

Shapes: B pairs of a micro-batch, R responses of the policy in them, G pairs of the global batch, K responses of a pair.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid


class ImportanceWeights(NamedTuple):
    """What corrects for responses that another policy sampled.

    Args:
        weights_B: min(πθ/π_sampled, cap), without gradient.
        truncated_B: whether the cap bit.
    """

    weights_B: torch.Tensor
    truncated_B: torch.Tensor


def response_term(losses_R: torch.Tensor, baselines_R: torch.Tensor, logps_R: torch.Tensor) -> torch.Tensor:
    """sg[ℓ̄ − b_i] · log πθ(y_i): the surrogate of the term for a response that comes from the policy.

    A response that makes its pair's loss larger than usual becomes less likely. The value means nothing; the gradient
    does. A pair's term is the sum over its responses; where best and worst of K were chosen, the choice depends on all
    K, and all of them belong to the sum.

    Args:
        losses_R: ℓ̄ of the pair that each response belongs to; detached here.
        baselines_R: b_i, independent of y_i.
        logps_R: log πθ(y_i), with gradient.

    Returns:
        (R,), to be summed by pair and scaled by the source's gradient coefficient.

    Source: the second term of ∇J, arXiv:2406.15567; baselines as in REINFORCE (Williams 1992).
    """
    return (losses_R - baselines_R).detach() * logps_R


def policy_labels(preference_logits_B: torch.Tensor) -> torch.Tensor:
    """pθ(y1 ≻ y2) = σ(β(s1 − s2)): the policy's own preference, without gradient.

    It is the Bradley-Terry model of DPO's reward-policy equivalence; for IPO and SLiC, whose losses come from no such
    model, it is a convention.

    Args:
        preference_logits_B: β(s1 − s2), s summed over tokens.

    Returns:
        (B,) in [0, 1], to be used as labels of `expected_preference_loss`.
    """
    return preference_logits_B.detach().sigmoid()


def label_term(
    forward_losses_B: torch.Tensor,
    backward_losses_B: torch.Tensor,
    labels_B: torch.Tensor,
    preference_logits_B: torch.Tensor,
) -> torch.Tensor:
    """Σ_z sg[q_z ℓ(h_z)] · log pθ(z): the surrogate of the term for labels that come from the policy.

    With q = sg[pθ] the sum over z is the exact expectation, which removes the noise of drawing z (Rao-Blackwell).

    Args:
        forward_losses_B: ℓ(h), the loss if the first response wins; detached here.
        backward_losses_B: ℓ(−h), the loss if the second wins; detached here.
        labels_B: q, from `policy_labels`, or 0 and 1 where z was drawn from it.
        preference_logits_B: β(s1 − s2), with gradient.

    Returns:
        (B,), to be scaled by the source's gradient coefficient.

    Source: the third term of ∇J, arXiv:2406.15567.
    """
    first_wins_B = (labels_B * forward_losses_B).detach() * logsigmoid(preference_logits_B)
    second_wins_B = ((1 - labels_B) * backward_losses_B).detach() * logsigmoid(-preference_logits_B)
    return first_wins_B + second_wins_B


def leave_one_out_baseline(
    losses_G: torch.Tensor,
    prompt_ids_G: torch.Tensor,
    response_ids_GK: torch.Tensor,
    prompt_ids_R: torch.Tensor,
    response_ids_R: torch.Tensor,
    empty: float,
) -> torch.Tensor:
    """b_i: the mean loss of the prompt's other pairs that do not contain y_i, else of all other prompts' pairs.

    Only what shares nothing with y_i may enter: with K > 2 samples a prompt, leaving out the pair alone would leave in
    pairs that contain y_i too, and bias the gradient. All pairs are those of one source in the whole global batch;
    averaging over a micro-batch would make the result depend on how memory was cut.

    Args:
        losses_G: ℓ̄ of every pair; detached here.
        prompt_ids_G: equal integers mean the same prompt.
        response_ids_GK: the responses that each pair depends on; equal integers mean the same response.
        prompt_ids_R: the prompt of each response that a baseline is wanted for.
        response_ids_R: that response.
        empty: what to return where no pair is left, such as ℓ(0), which depends on no response.

    Returns:
        (R,) without gradient.

    Source: leave-one-out baselines, Kool et al. 2019; independence of y_i is what keeps the term unbiased.
    """
    same_prompt_RG = prompt_ids_R.unsqueeze(1) == prompt_ids_G.unsqueeze(0)
    contains_RG = (response_ids_R.view(-1, 1, 1) == response_ids_GK.unsqueeze(0)).any(-1)
    baselines_R = torch.full_like(losses_G[:1], empty).expand(len(prompt_ids_R))
    for allowed_RG in (~same_prompt_RG, same_prompt_RG & ~contains_RG):
        num_pairs_R = allowed_RG.sum(-1)
        means_R = (allowed_RG.to(losses_G.dtype) @ losses_G.detach()) / num_pairs_R.clamp(min=1)
        baselines_R = torch.where(num_pairs_R > 0, means_R, baselines_R)
    return baselines_R


def importance_weights(
    logps_B: torch.Tensor, sampled_logps_B: torch.Tensor, cap: float = float("inf")
) -> ImportanceWeights:
    """W = πθ(y1) πθ(y2) ⋯ / π_sampled(y1) π_sampled(y2) ⋯, truncated: E_πθ[f] = E_sampled[W f].

    It multiplies every term of a pair, the plain loss and the KL included. Without a cap the gradient is exact for any
    sampling distribution that covers the policy's; the cap trades a bias, which `truncated_B` shows, for variance.

    Args:
        logps_B: Σ_i log πθ(y_i) over the pair's policy responses; detached here.
        sampled_logps_B: the same sum under the distribution that they were sampled from.
        cap: largest weight, above 0.

    Source: Ionides 2008, truncated importance sampling.
    """
    weights_B = (logps_B.detach() - sampled_logps_B).exp()
    return ImportanceWeights(weights_B.clamp(max=cap), weights_B > cap)
