"""The loss's settings: which terms there are, and which pairs and responses carry them. No model runs here.

`pair_losses` runs the models over a micro-batch, `pair_values` makes one value a pair of what they say; the trainer
takes the mean. The equations are those of `methods/`; these modules say which pairs and which responses they apply to.
Nothing in them is TRL's.

Shapes: B pairs of a micro-batch, G pairs of the global batch, S sequences (2B chosen and rejected, then all others),
R those of them that the policy sampled, C token positions, N response tokens, H the reference's width, K responses that
a pair depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from align_cli.methods.kl_control import KlControl, begin
from align_cli.methods.preference import REFERENCE_FREE, preference_loss
from align_cli.recipe import Recipe
from align_cli.recipe.sections.sources import coefficient_of
from align_cli.training.collated import Inputs


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
        kl_target: the KL in nats that the policy is held at; None leaves the coefficient as it is.
        kl_control: where the control of that stands.
        kl_on_all: whether all responses carry the KL, or the policy's alone.
        kl_gradient: `pathwise` or `full`.
        kl_baseline: whether in `full` a pair's two responses are each other's baseline, where both carry the KL.
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
    kl_target: float | None = None
    kl_control: KlControl | None = None
    kl_on_all: bool = False
    kl_gradient: str = "full"
    kl_baseline: bool = True
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

    @property
    def kl_weight(self) -> float:
        """What the next step weighs its KL with."""
        return self.kl_coefficient if self.kl_control is None else self.kl_control.coefficient

    def held_from(self, control: Mapping[str, float] | None) -> Objective:
        """The same, its control standing where a training state says; a control of another coefficient begins anew."""
        if self.kl_target is None:
            return self
        known = KlControl(**control) if control else None
        goes_on = known is not None and known.begun == self.kl_coefficient
        return replace(self, kl_control=known if goes_on else begin(self.kl_coefficient))

    def held_after(self, kl: float) -> Objective:
        """The same after a step whose responses of the policy have this mean KL, in nats."""
        assert self.kl_target is not None and self.kl_control is not None, "held_from has begun it"
        return replace(self, kl_control=self.kl_control.after(kl, self.kl_target))

    def losses(self, margins_B: torch.Tensor) -> torch.Tensor:
        """ℓ(h)."""
        return preference_loss(margins_B, self.loss_type, self.beta, self.gamma)


class Carriers(NamedTuple):
    """Which of a pair's two responses carry the terms that are means over such pairs.

    Args:
        kl_B2: the KL to the reference.
        optimism_B2: the optimism term.
    """

    kl_B2: torch.Tensor
    optimism_B2: torch.Tensor


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
        kl_target=method.kl.target,
        kl_on_all=method.kl.on == "all",
        kl_gradient=method.kl.gradient,
        kl_baseline=method.kl.baseline,
        optimism_coefficient=method.optimism.coefficient,
        nll_coefficient=method.nll.coefficient,
        initial_reference=method.initial_reference,
        importance_weight_cap=method.importance_weight_cap,
        plain=recipe.train.kernel == "plain",
    )


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


def flags(objective: Objective, inputs: Inputs, name: str) -> torch.Tensor:
    """(B,) whether each pair's source has a flag."""
    by_source = torch.tensor([getattr(source, name) for source in objective.sources], device=inputs["source"].device)
    return by_source[inputs["source"]]
