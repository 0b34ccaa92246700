"""What each source adds to a pair's loss: one value a pair, whose mean over the global batch is minimised.

Shapes as in `objective`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from align_cli.methods.bilevel import importance_weights, label_term, leave_one_out_baseline, response_term
from align_cli.methods.likelihood import nll_term
from align_cli.training.collated import Inputs
from align_cli.training.figures import Figures
from align_cli.training.objective import Objective, SourceTerms, carriers, flags
from align_cli.training.pair_losses import PairLosses, response_lengths


class GlobalLosses(NamedTuple):
    """What baselines average: the pairs of the whole global batch.

    Args:
        losses_G: ℓ̄, without gradient.
        sources_G: position of each pair's source.
        prompt_ids_G: equal within a source where the prompt is the same.
        response_ids_GK: the responses that each pair depends on.
    """

    losses_G: torch.Tensor
    sources_G: torch.Tensor
    prompt_ids_G: torch.Tensor
    response_ids_GK: torch.Tensor


GLOBAL_COLUMNS = ("source", "prompt_id", "response_ids")
"""The columns of a micro-batch that the other fields of `GlobalLosses` are, in their order."""


def pair_values(
    objective: Objective, pairs: PairLosses, inputs: Inputs, batch: GlobalLosses, figures: Figures
) -> torch.Tensor:
    """sg[W] · {ℓ̄ + c · (bilevel terms) + α · NLL + a · KL} + b · optimism: what is averaged over the global batch.

    α is the coefficient of the winner's likelihood, which all pairs have; a and b are the coefficients times the
    `pairs_per_carrier` of the step.

    Optimism is an expectation over the reference, and its responses are draws from it: weights would undo it.

    Args:
        objective: the settings.
        pairs: from `pair_losses`.
        inputs: the micro-batch, with its `pairs_per_carrier`.
        batch: the whole global batch, for the baselines.
        figures: told every term's size, per source.

    Returns:
        (B,).
    """
    values_B, carry = pairs.losses_B, carriers(objective, inputs)
    figures.add("loss", pairs.losses_B)
    nll_B = _nll(pairs, inputs) if objective.nll_coefficient else None
    for position, source in enumerate(objective.sources):
        rows_B = inputs["source"] == position
        if not rows_B.any():
            continue
        _add_figures(source, pairs, rows_B, figures)
        terms_B = torch.zeros_like(values_B)
        if source.carries_response_term:
            term_B = _response_term(objective, position, pairs, inputs, batch, figures)
            figures.add(f"{source.name}/response_term", term_B[rows_B].abs())
            if "sampled_loss" in inputs:
                figures.add(f"{source.name}/loss_drift", (pairs.losses_B - inputs["sampled_loss"])[rows_B])
            terms_B = terms_B + source.gradient_coefficient * term_B
        if source.gradient_coefficient and source.policy_labels:
            term_B = label_term(pairs.forward_B, pairs.backward_B, pairs.labels_B, pairs.preference_logits_B)
            figures.add(f"{source.name}/label_term", term_B[rows_B].abs())
            terms_B = terms_B + source.gradient_coefficient * term_B
        if nll_B is not None:
            figures.add(f"{source.name}/nll", nll_B[rows_B])
        if objective.kl_coefficient:
            figures.add(f"{source.name}/kl", pairs.kl_B[rows_B & carry.kl_B2.any(1)])
        if objective.optimism_coefficient:
            figures.add(f"{source.name}/optimism_term", pairs.optimism_B[rows_B & carry.optimism_B2.any(1)])
        values_B = values_B + torch.where(rows_B, terms_B, 0.0)
    if nll_B is not None:
        values_B = values_B + objective.nll_coefficient * nll_B
    if objective.kl_coefficient:
        if objective.kl_target is not None:
            own_2B = pairs.of_policy_S[: carry.kl_B2.numel()].view(2, -1)
            figures.add("kl", pairs.kl_2B[own_2B & carry.kl_B2.T])
        values_B = values_B + objective.kl_weight * (inputs["global_pairs_per_kl"] * pairs.kl_B)
    values_B = _weights(objective, pairs, inputs, figures) * values_B
    if objective.optimism_coefficient:
        values_B = values_B + objective.optimism_coefficient * (inputs["global_pairs_per_optimism"] * pairs.optimism_B)
    return values_B


def _nll(pairs: PairLosses, inputs: Inputs) -> torch.Tensor:
    """(B,) the winner's negative log-likelihood per token."""
    logps_B, other_logps_B = pairs.logps_S[: 2 * len(inputs["label"])].chunk(2)
    return nll_term(logps_B, other_logps_B, *response_lengths(inputs), pairs.labels_B)


def _response_term(
    objective: Objective, position: int, pairs: PairLosses, inputs: Inputs, batch: GlobalLosses, figures: Figures
) -> torch.Tensor:
    """(B,) the response term of every pair, with baselines from one source's pairs; that source's rows are meant."""
    pair_of_R, logps_R = inputs["pair_of"][pairs.of_policy_S], pairs.logps_S[pairs.of_policy_S]
    same_source_G = batch.sources_G == position
    baselines_R = leave_one_out_baseline(
        batch.losses_G[same_source_G],
        batch.prompt_ids_G[same_source_G],
        batch.response_ids_GK[same_source_G],
        inputs["prompt_id"][pair_of_R],
        inputs["response_id"][pairs.of_policy_S],
        empty=objective.losses(torch.zeros(1)).item(),
    )
    figures.add(f"{objective.sources[position].name}/baseline", baselines_R[inputs["source"][pair_of_R] == position])
    terms_R = response_term(pairs.losses_B[pair_of_R], baselines_R, logps_R)
    return torch.zeros_like(pairs.losses_B).index_add(0, pair_of_R, terms_R)


def _weights(objective: Objective, pairs: PairLosses, inputs: Inputs, figures: Figures) -> torch.Tensor:
    """(B,) importance weights over the responses that the policy sampled; 1 for pairs without such."""
    ones_B = torch.ones_like(pairs.losses_B)
    if objective.importance_weight_cap is None:
        return ones_B
    logps_B = ones_B.new_zeros(len(ones_B)).index_add(0, inputs["pair_of"], pairs.logps_S * pairs.of_policy_S)
    found = importance_weights(logps_B, inputs["sampled_logp"], objective.importance_weight_cap)
    for position, source in enumerate(objective.sources):
        rows_B = inputs["source"] == position
        if source.policy_responses and rows_B.any():
            figures.add(f"{source.name}/importance_weight", found.weights_B[rows_B])
            figures.add(f"{source.name}/importance_weight_truncated", found.truncated_B[rows_B].float())
    return torch.where(flags(objective, inputs, "policy_responses"), found.weights_B, ones_B)


def _add_figures(source: SourceTerms, pairs: PairLosses, rows_B: torch.Tensor, figures: Figures) -> None:
    """The source's loss and margin, and how far the policy's implicit reward agrees with the labels.

    A label q counts q where the policy prefers the chosen response, 1 − q where it prefers the other, ½ where neither.
    Against its own labels a policy is always right; what is worth knowing there is how sure it is.
    """
    figures.add(f"{source.name}/loss", pairs.losses_B[rows_B])
    if source.policy_labels:
        figures.add(f"{source.name}/confidence", torch.maximum(pairs.labels_B, 1 - pairs.labels_B)[rows_B])
        return
    prefers_B = (pairs.preference_logits_B.sign() + 1) / 2
    agreement_B = pairs.labels_B * prefers_B + (1 - pairs.labels_B) * (1 - prefers_B)
    figures.add(f"{source.name}/accuracy", agreement_B[rows_B])
    figures.add(f"{source.name}/margin", pairs.margins_B[rows_B])
