"""The loss of a micro-batch: a forward pass, margins, losses, then what each source adds; one value a pair.

The equations are those of `methods/`; this module says which pairs and which responses they apply to. The trainer calls
it and takes the mean. Nothing here is TRL's.

Shapes: B pairs of a micro-batch, G pairs of the global batch, S sequences (2B chosen and rejected, then all others),
R those of them that the policy sampled, C token positions, N response tokens, H the reference's width, K responses that
a pair depends on.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import torch

from align_cli.methods.bilevel import (
    importance_weights,
    label_term,
    leave_one_out_baseline,
    policy_labels,
    response_term,
)
from align_cli.methods.kl import sequence_kl
from align_cli.methods.likelihood import nll_term
from align_cli.methods.optimism import optimism_term
from align_cli.methods.preference import (
    REFERENCE_FREE,
    expected_preference_loss,
    preference_loss,
    preference_margin,
)
from align_cli.methods.reference import mixed_reference_logps
from align_cli.methods.regression import rebel_loss, sppo_loss
from align_cli.models.scoring import (
    ReferenceScores,
    ResponseScores,
    TokenBatch,
    reference_scores,
    score_responses,
)
from align_cli.recipe import Recipe
from align_cli.recipe.sections.sources import coefficient_of

REGRESSIONS = ("sppo", "rebel")
"""The losses that look at what a labeler gave each response, and not at who won alone."""

Inputs = dict[str, torch.Tensor]
"""A collated micro-batch, as `batches.PairCollator` makes it."""


class SourceTerms(NamedTuple):
    """What the loss needs to know of a source.

    Args:
        name: as in the recipe.
        gradient_coefficient: c of the bilevel terms; 0 leaves them out.
        policy_responses: whether responses of its pairs come from the policy.
        policy_labels: whether its labels are the policy's own, recomputed at each step.
    """

    name: str
    gradient_coefficient: float = 0.0
    policy_responses: bool = False
    policy_labels: bool = False

    @property
    def carries_response_term(self) -> bool:
        """Whether its pairs carry the response term, and are baselines in it."""
        return bool(self.gradient_coefficient and self.policy_responses)


@dataclass(frozen=True)
class Objective:
    """The loss's settings.

    Args:
        sources: in the order of the mixture.
        loss_type: `sigmoid`, `ipo`, `hinge`, `simpo`, `sppo`, `rebel` or `inpo`.
        beta: above 0.
        gamma: SimPO's target margin.
        kl_coefficient: weight, in every step, of the mean KL over the batch's pairs that carry it; 0 leaves it out.
        kl_on_all: whether all responses carry the KL, or the policy's alone.
        kl_gradient: `pathwise` or `full`.
        optimism_coefficient: weight, in every step, of the mean optimism over the batch's pairs that carry it; 0 leaves
            it out.
        nll_coefficient: weight of the winner's negative log-likelihood per token; 0 leaves it out.
        initial_reference: weight of the initial policy in a geometric mixture with the reference.
        importance_weight_cap: largest weight of a pair whose responses come from the policy; None weighs none.
        plain: whether the models read each sequence alone and make all logits: slower, and the same to rounding.
    """

    sources: tuple[SourceTerms, ...]
    loss_type: str = "sigmoid"
    beta: float = 0.1
    gamma: float = 0.0
    kl_coefficient: float = 0.0
    kl_on_all: bool = False
    kl_gradient: str = "full"
    optimism_coefficient: float = 0.0
    nll_coefficient: float = 0.0
    initial_reference: float = 0.0
    importance_weight_cap: float | None = None
    plain: bool = False

    @property
    def needs_baseline(self) -> bool:
        """Whether any pair carries the response term."""
        return any(source.carries_response_term for source in self.sources)

    @property
    def needs_reference(self) -> bool:
        """Whether the reference has to run at all."""
        return bool(self.kl_coefficient) or self.needs_ratios

    @property
    def needs_ratios(self) -> bool:
        """Whether responses are compared with what the reference says of them."""
        return bool(self.optimism_coefficient) or self.loss_type not in REFERENCE_FREE

    def losses(self, margins_B: torch.Tensor) -> torch.Tensor:
        """ℓ(h)."""
        return preference_loss(margins_B, self.loss_type, self.beta, self.gamma)


class PairLosses(NamedTuple):
    """Losses of a micro-batch under the current policy, and what they are made of.

    Args:
        losses_B: ℓ̄, with the labels of each pair's source.
        forward_B: ℓ(h), the loss if the chosen response wins.
        backward_B: ℓ(−h), the loss if the rejected one wins.
        labels_B: q, the policy's own where the source says so.
        margins_B: h.
        preference_logits_B: β(s1 − s2), s summed over tokens.
        logps_S: log πθ of every response.
        of_policy_S: whether the policy sampled it.
        kl_B: mean KL to the reference over those of the pair's two responses that carry it; 0 where none does.
        optimism_B: the optimism term; 0 where none of its responses carries it.
    """

    losses_B: torch.Tensor
    forward_B: torch.Tensor
    backward_B: torch.Tensor
    labels_B: torch.Tensor
    margins_B: torch.Tensor
    preference_logits_B: torch.Tensor
    logps_S: torch.Tensor
    of_policy_S: torch.Tensor
    kl_B: torch.Tensor
    optimism_B: torch.Tensor


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


class Carriers(NamedTuple):
    """Which of a pair's two responses carry the terms that are means over such pairs.

    Args:
        kl_B2: the KL to the reference.
        optimism_B2: the optimism term.
    """

    kl_B2: torch.Tensor
    optimism_B2: torch.Tensor


class Figures:
    """What the means over a whole step are made of, whatever its micro-batches and processes."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, values: torch.Tensor) -> None:
        """Take in more values of a figure."""
        total = self._sums[name]
        total[0] += values.detach().sum().item()
        total[1] += values.numel()

    def take(self) -> dict[str, float]:
        """The means by name, in alphabetical order; what was collected is forgotten."""
        return {name: total / count for name, (total, count) in sorted(self.take_sums().items()) if count}

    def take_sums(self) -> dict[str, tuple[float, float]]:
        """Sums and counts by name; what was collected is forgotten."""
        sums = {name: (total, count) for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return sums


def carriers(objective: Objective, inputs: Inputs) -> Carriers:
    """Which responses of a micro-batch carry the KL and the optimism; no model is asked."""
    of_policy_2B = inputs["of_policy"][: 2 * len(inputs["label"])].view(2, -1)
    carries_2B = (of_policy_2B & flags(objective, inputs, "policy_responses")) | objective.kl_on_all
    return Carriers(carries_2B.T, inputs["from_reference"])


def pairs_per_carrier(whole: Carriers) -> Inputs:
    """What a pair that carries the KL, or the optimism, counts for in one step: G / (the global batch's such pairs).

    Averaged over all G pairs, each term is then its coefficient times the mean over those that carry it, however many
    of them the step's share gave it.

    Args:
        whole: of the whole global batch.

    Returns:
        What each of the step's micro-batches gets beside its columns.
    """
    return {
        f"global_pairs_per_{name}": len(carries_G2) / carries_G2.any(1).sum().clamp(min=1)
        for name, carries_G2 in (("kl", whole.kl_B2), ("optimism", whole.optimism_B2))
    }


def token_batch(inputs: Inputs) -> TokenBatch:
    """A micro-batch's tokens."""
    return TokenBatch(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"])


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
    return PairLosses(
        *_compared(objective, inputs, logps_2B, ratios_2B),
        logps_S=logps_S,
        of_policy_S=inputs["of_policy"] & flags(objective, inputs, "policy_responses")[inputs["pair_of"]],
        kl_B=_pair_kl(objective, scores, carry.kl_B2),
        optimism_B=optimism_term(chosen_B, rejected_B, carry.optimism_B2),
    )


class _Compared(NamedTuple):
    """The first fields of `PairLosses`: all that follows from what is said of a pair's two responses."""

    losses_B: torch.Tensor
    forward_B: torch.Tensor
    backward_B: torch.Tensor
    labels_B: torch.Tensor
    margins_B: torch.Tensor
    preference_logits_B: torch.Tensor


def _compared(objective: Objective, inputs: Inputs, logps_2B: torch.Tensor, ratios_2B: torch.Tensor) -> _Compared:
    is_free = objective.loss_type in REFERENCE_FREE
    chosen_B, rejected_B = (logps_2B if is_free else ratios_2B).chunk(2)
    lengths_B, other_lengths_B = _lengths(inputs)
    margins_B = preference_margin(chosen_B, rejected_B, lengths_B, other_lengths_B, objective.loss_type)
    logits_B = objective.beta * (margins_B if is_free else chosen_B - rejected_B)
    own_labels_B = flags(objective, inputs, "policy_labels")
    labels_B = torch.where(own_labels_B, policy_labels(logits_B), inputs["label"])
    if objective.loss_type in REGRESSIONS:
        forward_B = backward_B = _regression(objective, inputs, chosen_B, rejected_B, labels_B)
    else:
        forward_B, backward_B = objective.losses(margins_B), objective.losses(-margins_B)
    losses_B = expected_preference_loss(forward_B, backward_B, labels_B)
    return _Compared(losses_B, forward_B, backward_B, labels_B, margins_B, logits_B)


def _lengths(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) tokens of the chosen responses, and of the rejected ones."""
    chosen_B, rejected_B = inputs["completion_mask"][: 2 * len(inputs["label"])].sum(-1).chunk(2)
    return chosen_B, rejected_B


def _nll(pairs: PairLosses, inputs: Inputs) -> torch.Tensor:
    """(B,) the winner's negative log-likelihood per token."""
    logps_B, other_logps_B = pairs.logps_S[: 2 * len(inputs["label"])].chunk(2)
    return nll_term(logps_B, other_logps_B, *_lengths(inputs), pairs.labels_B)


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
        values_B = values_B + objective.kl_coefficient * (inputs["global_pairs_per_kl"] * pairs.kl_B)
    values_B = _weights(objective, pairs, inputs, figures) * values_B
    if objective.optimism_coefficient:
        values_B = values_B + objective.optimism_coefficient * (inputs["global_pairs_per_optimism"] * pairs.optimism_B)
    return values_B


def flags(objective: Objective, inputs: Inputs, name: str) -> torch.Tensor:
    """(B,) whether each pair's source has a flag."""
    by_source = torch.tensor([getattr(source, name) for source in objective.sources], device=inputs["source"].device)
    return by_source[inputs["source"]]


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


def _pair_kl(objective: Objective, scores: ResponseScores, carries_B2: torch.Tensor) -> torch.Tensor:
    both = slice(0, carries_B2.numel())
    kl_2B = sequence_kl(scores.kl_BC[both], scores.logps_BC[both], scores.mask_BC[both], objective.kl_gradient).view(
        2, -1
    )
    return (kl_2B * carries_B2.T).sum(0) / carries_B2.sum(1).clamp(min=1)


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


def recipe_objective(recipe: Recipe) -> Objective:
    """The objective of a recipe whose loss is align's own."""
    method = recipe.method
    return Objective(
        sources=tuple(
            SourceTerms(name, coefficient_of(section), section.policy_responses, section.policy_labels)
            for name, section in method.sources.in_use().items()
        ),
        loss_type=method.loss_types[0],
        beta=method.beta,
        gamma=method.simpo_gamma if method.loss_types[0] in REFERENCE_FREE else 0.0,
        kl_coefficient=method.kl.coefficient,
        kl_on_all=method.kl.on == "all",
        kl_gradient=method.kl.gradient,
        optimism_coefficient=method.optimism.coefficient,
        nll_coefficient=method.nll.coefficient,
        initial_reference=method.initial_reference,
        importance_weight_cap=method.importance_weight_cap,
        plain=recipe.train.kernel == "plain",
    )
