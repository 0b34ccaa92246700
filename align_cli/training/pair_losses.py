"""A micro-batch under the policy and the reference: forward passes, margins, labels, losses. Shapes as in `objective`.

What of it does not change within a step, and what needs no model at all, can be had alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from align_cli.methods.bilevel import policy_labels
from align_cli.methods.kl import later_kl, sequence_kl
from align_cli.methods.optimism import optimism_term
from align_cli.methods.preference import REFERENCE_FREE, expected_preference_loss, preference_margin
from align_cli.methods.reference import mixed_reference_logps
from align_cli.methods.regression import rebel_loss, sppo_loss
from align_cli.models.scoring import ReferenceScores, ResponseScores, reference_scores, score_responses
from align_cli.training.collated import Inputs, token_batch
from align_cli.training.objective import Objective, carriers, flags

REGRESSIONS = ("sppo", "rebel")
"""The losses that look at what a labeler gave each response, and not at who won alone."""


@dataclass(frozen=True)
class ComparedPairs:
    """All that follows from what is said of the two responses of a micro-batch's pairs.

    Args:
        losses_B: ℓ̄, with the labels of each pair's source.
        forward_B: ℓ(h), the loss if the chosen response wins.
        backward_B: ℓ(−h), the loss if the rejected one wins.
        labels_B: q, the policy's own where the source says so.
        margins_B: h.
        preference_logits_B: β(s1 − s2), s summed over tokens.
    """

    losses_B: torch.Tensor
    forward_B: torch.Tensor
    backward_B: torch.Tensor
    labels_B: torch.Tensor
    margins_B: torch.Tensor
    preference_logits_B: torch.Tensor


@dataclass(frozen=True)
class PairLosses(ComparedPairs):
    """Losses of a micro-batch under the current policy, and what they are made of.

    Args:
        logps_S: log πθ of every response.
        of_policy_S: whether the policy sampled it.
        kl_2B: KL to the reference of the chosen and of the rejected response; 0 where it carries none.
        kl_B: its mean over those of the pair's two responses that carry it; 0 where none does.
        optimism_B: the optimism term; 0 where none of its responses carries it.
    """

    logps_S: torch.Tensor
    of_policy_S: torch.Tensor
    kl_2B: torch.Tensor
    kl_B: torch.Tensor
    optimism_B: torch.Tensor


def pair_losses(
    objective: Objective, model: torch.nn.Module, reference: torch.nn.Module | None, inputs: Inputs
) -> PairLosses:
    """Run the policy over a micro-batch.

    Args:
        objective: the settings.
        model: the policy.
        reference: what margins are taken against; may be None where the objective needs none.
        inputs: the micro-batch; without `reference_columns` the reference runs now.
    """
    if reference is not None and "reference_logps" not in inputs:  # nobody has made the columns before
        inputs = {**inputs, **reference_columns(objective, reference, inputs)}
    carry = carriers(objective, inputs)
    scores = _scores(objective, model, reference, inputs, carry.kl_B2)
    logps_S = scores.logps_BC.sum(-1)
    logps_2B = logps_S[: 2 * len(inputs["label"])]
    ratios_2B = _ratios(objective, inputs, logps_2B)
    chosen_B, rejected_B = ratios_2B.chunk(2)
    kl_2B = _response_kls(objective, scores, carry.kl_B2)
    return PairLosses(
        **vars(_compared(objective, inputs, logps_2B, ratios_2B)),
        logps_S=logps_S,
        of_policy_S=inputs["of_policy"] & flags(objective, inputs, "policy_responses")[inputs["pair_of"]],
        kl_2B=kl_2B,
        kl_B=kl_2B.sum(0) / carry.kl_B2.sum(1).clamp(min=1),
        optimism_B=optimism_term(chosen_B, rejected_B, carry.optimism_B2),
    )


def reference_columns(
    objective: Objective, reference: torch.nn.Module, inputs: Inputs, *, in_step: bool = False
) -> Inputs:
    """What a micro-batch's loss needs of the reference, which runs over what is not known, once.

    Args:
        objective: the settings.
        reference: the frozen model.
        inputs: the micro-batch; `reference_logps` of what carries no KL may be among its columns.
        in_step: whether other processes take part in the reference's passes: it then runs where nothing is wanted, too.

    Returns:
        What the micro-batch gets beside its columns: `reference_logps` (S,) and, where there is a KL, what the
        reference's head was given at each of its N response tokens: `reference_states` (N, H); both may be 0 for
        sequences that need none.
    """
    batch = token_batch(inputs)
    if not objective.needs_reference:
        return {}
    if "reference_logps" not in inputs:
        found = reference_scores(reference, batch, plain=objective.plain)
        columns = {"reference_logps": found.logps_B}
        return {**columns, "reference_states": found.states_NH} if objective.kl_coefficient else columns
    carries_S = _carrying_sequences(carriers(objective, inputs).kl_B2, len(batch.input_ids_BT))
    if not objective.kl_coefficient:
        return {}
    if not carries_S.any():
        if in_step:
            reference_scores(reference, batch.rows(torch.arange(len(carries_S)) == 0), plain=objective.plain)
        return {}
    found = reference_scores(reference, batch.rows(carries_S), plain=objective.plain)
    carries_N = carries_S[batch.completion_mask_BT.nonzero()[:, 0]]
    states_NH = found.states_NH.new_zeros(len(carries_N), found.states_NH.shape[-1])
    states_NH[carries_N] = found.states_NH
    logps_S = inputs["reference_logps"].masked_scatter(carries_S, found.logps_B.to(inputs["reference_logps"].dtype))
    return {"reference_logps": logps_S, "reference_states": states_NH}


def sampled_losses(objective: Objective, inputs: Inputs) -> torch.Tensor:
    """ℓ̄ of pairs under the policy that sampled them, out of what is written down: no model runs.

    It does not depend on the weights, and so is a baseline for any response that a pair does not share.

    Args:
        objective: the settings.
        inputs: the pairs, with `reference_logps` (S,) and, of every pair, `policy_logps` (B, 2).

    Returns:
        (B,).
    """
    logps_2B = inputs["policy_logps"].T.flatten()
    return _compared(objective, inputs, logps_2B, _ratios(objective, inputs, logps_2B)).losses_B


def response_lengths(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) tokens of the chosen responses, and of the rejected ones."""
    chosen_B, rejected_B = inputs["completion_mask"][: 2 * len(inputs["label"])].sum(-1).chunk(2)
    return chosen_B, rejected_B


def _compared(objective: Objective, inputs: Inputs, logps_2B: torch.Tensor, ratios_2B: torch.Tensor) -> ComparedPairs:
    is_free = objective.loss_type in REFERENCE_FREE
    chosen_B, rejected_B = (logps_2B if is_free else ratios_2B).chunk(2)
    lengths_B, other_lengths_B = response_lengths(inputs)
    margins_B = preference_margin(chosen_B, rejected_B, lengths_B, other_lengths_B, objective.loss_type)
    logits_B = objective.beta * (margins_B if is_free else chosen_B - rejected_B)
    own_labels_B = flags(objective, inputs, "policy_labels")
    labels_B = torch.where(own_labels_B, policy_labels(logits_B), inputs["label"])
    if objective.loss_type in REGRESSIONS:
        forward_B = backward_B = _regression(objective, inputs, chosen_B, rejected_B, labels_B)
    else:
        forward_B, backward_B = objective.losses(margins_B), objective.losses(-margins_B)
    losses_B = expected_preference_loss(forward_B, backward_B, labels_B)
    return ComparedPairs(losses_B, forward_B, backward_B, labels_B, margins_B, logits_B)


def _regression(
    objective: Objective, inputs: Inputs, chosen_B: torch.Tensor, rejected_B: torch.Tensor, labels_B: torch.Tensor
) -> torch.Tensor:
    """(B,) how far log-ratios are from what a labeler gave; it has no direction, as a loss of who won has."""
    target_B, other_target_B = inputs["targets"].T
    if objective.loss_type == "rebel":
        return rebel_loss(chosen_B - rejected_B, target_B - other_target_B, objective.beta)
    # Where no win rates are known, as of a dataset's pairs, the label says how often either wins against the other.
    win_rate_B = torch.where(target_B.isnan(), labels_B, target_B)
    other_win_rate_B = torch.where(other_target_B.isnan(), 1 - labels_B, other_target_B)
    return sppo_loss(chosen_B, rejected_B, win_rate_B, other_win_rate_B, objective.beta)


def _ratios(objective: Objective, inputs: Inputs, logps_2B: torch.Tensor) -> torch.Tensor:
    """s of a pair's two responses; log πθ where there is no reference."""
    if "reference_logps" not in inputs:
        return logps_2B
    reference_2B = inputs["reference_logps"][: len(logps_2B)]
    if objective.initial_reference:
        initial_2B = inputs["initial_logps"].T.flatten()
        reference_2B = mixed_reference_logps(initial_2B, reference_2B, objective.initial_reference)
    return logps_2B - reference_2B


def _scores(
    objective: Objective,
    model: torch.nn.Module,
    reference: torch.nn.Module | None,
    inputs: Inputs,
    carries_kl_B2: torch.Tensor,
) -> ResponseScores:
    """What the policy says of a micro-batch's responses; the KL is left out where no gradient is wanted."""
    batch = token_batch(inputs)
    wants_kl = objective.kl_coefficient and torch.is_grad_enabled()
    if reference is None or not wants_kl or "reference_states" not in inputs:
        return score_responses(model, batch, plain=objective.plain)
    anchored = ReferenceScores(reference, inputs["reference_logps"], inputs["reference_states"])
    carries_S = _carrying_sequences(carries_kl_B2, len(batch.input_ids_BT))
    return score_responses(model, batch, anchored, carries_S, plain=objective.plain)


def _carrying_sequences(carries_B2: torch.Tensor, num_sequences: int) -> torch.Tensor:
    """(S,) which sequences carry what a pair's two responses may."""
    carries_S = carries_B2.new_zeros(num_sequences)
    carries_S[: carries_B2.numel()] = carries_B2.T.flatten()
    return carries_S


def _response_kls(objective: Objective, scores: ResponseScores, carries_B2: torch.Tensor) -> torch.Tensor:
    """(2, B) the KL of the chosen and of the rejected responses; where both carry it, each is the other's baseline."""
    both = slice(0, carries_B2.numel())
    token_kl_BC, logps_BC, mask_BC = scores.kl_BC[both], scores.logps_BC[both], scores.mask_BC[both]
    baselines_BC: torch.Tensor | float = 0.0
    if objective.kl_baseline and objective.kl_gradient == "full":
        others_BC = later_kl(token_kl_BC, mask_BC).roll(len(carries_B2), 0)
        baselines_BC = others_BC * carries_B2.all(1).repeat(2)[:, None]
    kls = sequence_kl(token_kl_BC, logps_BC, mask_BC, objective.kl_gradient, baselines_BC)
    return kls.view(2, -1) * carries_B2.T
