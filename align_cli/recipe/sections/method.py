"""`method`: the loss with its options, the mixture, and the terms on top.

What a loss takes and what its options do is checked here; the terms' own rules stand with `sources`, `kl`, `optimism`
and `generate`. Each protects a statement of docs/method.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, PrivateAttr

from align_cli.errors import counted
from align_cli.recipe.checking.section import Section, Usual
from align_cli.recipe.checking.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.sections.kl import KlSection
from align_cli.recipe.sections.labelers import labeler_gives
from align_cli.recipe.sections.losses import (
    ALIGNS_ALONE,
    BILEVEL_LOSSES,
    F_DIVERGENCE_LOSSES,
    LOSS_TYPE_ALIASES,
    LOSSES_OF_OPTIONS,
    OWN_LOSSES,
    UNWEIGHABLE_LOSSES,
    LossTypes,
)
from align_cli.recipe.sections.nll import NllSection
from align_cli.recipe.sections.optimism import OptimismSection
from align_cli.recipe.sections.sources import SOURCES, SourcesSection, coefficient_of
from align_cli.recipe.written.tree import shown

if TYPE_CHECKING:
    from align_cli.recipe.recipe import Recipe


CAP = "method.importance_weight_cap"
REPLAY_CAP = 2.0
"""The cap of an earlier policy's pairs where a recipe sets none: docs/method.md, section 4, has what it rests on."""


SMALLEST_BETA = 1e-6
"""IPO divides by it, and squares that in float32."""


SCHEDULED = (
    *(f"sources.{name}.{key}" for name, source in SOURCES.items() for key in ("mixing", "gradient")
      if key in source.model_fields),
    "kl.coefficient", "optimism.coefficient", "nll.coefficient",
)  # fmt: skip
"""The keys of `method` that may be a list: one value a round, the last of which stays."""


class MethodSection(Section):
    """`method`: the loss, the mixture of sources and the bilevel coefficients."""

    TRL_OPTIONS: ClassVar[tuple[str, ...]] = (
        "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "discopop_tau", "ld_alpha",
    )  # fmt: skip

    loss_type: LossTypes = Field(
        "sigmoid",
        description="sigmoid (dpo), ipo or hinge (slic); simpo, sppo, rebel or inpo, which take no gradient "
        "coefficients; the others are TRL's own, one of them or a list, and take no coefficients",
    )
    beta: Annotated[float, Usual("0.1 to 0.5 is usual for DPO")] = Field(
        0.1,
        gt=0,
        description="strength of the loss's tie to the reference (IPO: tau; SimPO: scale of its margin; INPO: eta; "
        "SPPO and REBEL: 1 / eta)",
    )
    sources: SourcesSection = Field(description="the mixture")
    kl: KlSection = KlSection()
    optimism: OptimismSection = OptimismSection()
    nll: NllSection = NllSection()
    initial_reference: float = Field(
        0.0,
        ge=0,
        le=1,
        description="with policy.reference previous: weight of the initial policy in a geometric mixture of both that "
        "the loss compares with (INPO's τ/η)",
    )
    importance_weight_cap: float | None = Field(
        None,
        gt=0,
        description="largest weight πθ/π_sampled of a pair of the policy's; null trains as sampled; unset: "
        f"{REPLAY_CAP:g} with generate.rounds_ahead, and with train.replay_rounds and a gradient or the full KL; else "
        "null",
    )
    simpo_gamma: float = Field(0.5, ge=0, description="simpo: the margin to win by (γ); the paper takes 0.1β to 0.8β")
    loss_weights: list[Annotated[float, Field(ge=0)]] | None = Field(
        None, description="a weight, at least 0, for each of a list of losses; unset: 1 each"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="robust: share of labels that are flipped; exo_pair: its ε"
    )
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = Field(
        "reverse_kl", description="f-DPO's divergence (arXiv:2309.16240)"
    )
    f_alpha_divergence_coef: float = Field(0.5, description="α of alpha_divergence")
    use_weighting: bool = Field(
        False, description="weigh pairs by their probability under the policy (WPO, 2406.11827)"
    )
    discopop_tau: float = Field(0.05, gt=0, description="temperature of discopop")
    ld_alpha: float | None = Field(
        None, ge=0, le=1, description="weight of the tokens beyond the shorter response's length (LD-DPO, 2409.06411)"
    )

    _schedule: dict[str, list[float]] = PrivateAttr(default={})

    @property
    def schedule(self) -> dict[str, list[float]]:
        """The values of the keys that follow a schedule, round by round, by key."""
        return self._schedule

    def following(self, schedule: dict[str, list[float]]) -> MethodSection:
        """The same, with keys that follow a schedule; they have the values that they have."""
        method = self.model_copy()
        method._schedule = schedule
        return method

    def of_round(self, number: int) -> MethodSection:
        """What holds in a round: its own values, and of the schedule what has been by then.

        So rounds that are over do not change where later values do.
        """
        method, number, cut = self, max(number, 1), {}
        for key, values in self._schedule.items():
            method = _with_value(method, key.split("."), values[min(number, len(values)) - 1])
            if len(set(values[:number])) > 1:
                cut[key] = values[:number]
        return method.following(cut) if self._schedule else self

    def at_its_most(self) -> MethodSection:
        """With the largest value of every key that follows a schedule: what some round needs, all get ready for."""
        method = self
        for key, values in self._schedule.items():
            method = _with_value(method, key.split("."), max(values))
        return method

    @property
    def loss_types(self) -> list[str]:
        """The losses, also where there is one."""
        return list(self.loss_type) if isinstance(self.loss_type, list) else [self.loss_type]

    @property
    def trl_keys(self) -> list[str]:
        """The keys that make the loss TRL's own: losses that align has not, several at once, or options of TRL's."""
        fields = type(self).model_fields
        options = [name for name in self.TRL_OPTIONS if getattr(self, name) != fields[name].default]
        is_other = len(self.loss_types) > 1 or self.loss_types[0] not in OWN_LOSSES
        return [*(["loss_type"] if is_other else []), *options]

    @property
    def uses_trl_loss(self) -> bool:
        """Whether TRL computes the loss, as it stands."""
        return bool(self.trl_keys)


Held = TypeVar("Held", bound=Section)


def _with_value(section: Held, path: list[str], value: float) -> Held:
    """A copy of a section with another value at a key in it."""
    name, *rest = path
    changed = _with_value(getattr(section, name), rest, value) if rest else value
    return section.model_copy(update={name: changed})


def with_automatic_values(method: MethodSection, replay_rounds: int, rounds_ahead: int) -> MethodSection:
    """An unset `importance_weight_cap` becomes a number where pairs are of an earlier round's policy.

    Replayed ones have it where they carry an expectation over the policy, as the bilevel terms and the full KL; all of
    them where rounds are sampled ahead. What is set stays, null too.
    """
    most = method.at_its_most()
    is_expectation = most.kl.is_full or any(
        source.policy_responses and coefficient_of(source) for source in most.sources.in_use().values()
    )
    is_older = rounds_ahead or (replay_rounds and is_expectation)
    if "importance_weight_cap" in method.model_fields_set or not is_older:
        return method
    return method.model_copy(update={"importance_weight_cap": REPLAY_CAP})


def _losses(view: View) -> list[str]:
    written = view.get("method.loss_type")
    losses: list[str] = written if isinstance(written, list) else [written]
    return [LOSS_TYPE_ALIASES.get(loss, loss) for loss in losses]


def _losses_are_finite(view: View) -> Iterator[RuleFault]:
    beta = view.get("method.beta")
    if beta < SMALLEST_BETA:
        what = f"method.beta is {shown(beta)}; below {SMALLEST_BETA:g} losses are no longer finite"
        yield rule_fault("method.beta", what, "0.1 to 0.5 is usual for DPO")


def trl_key(view: View) -> str | None:
    """The first key that makes the loss TRL's own."""
    losses = _losses(view)
    if len(losses) > 1 or losses[0] not in OWN_LOSSES:
        return "loss_type"
    fields = MethodSection.model_fields
    options = (name for name in MethodSection.TRL_OPTIONS if view.get(f"method.{name}") != fields[name].default)
    return next(options, None)


def _only_own_losses_take_terms(view: View) -> Iterator[RuleFault]:
    """TRL's losses run as they are: nothing can be added to them, nor their labels replaced."""
    losses, key = _losses(view), trl_key(view)
    for loss in ALIGNS_ALONE:
        if len(losses) > 1 and loss in losses:
            what = f"method.loss_type: {loss} stands alone; it is no loss of TRL's"
            yield rule_fault("method.loss_type", what, "remove it")
    is_trl = key is not None
    if not is_trl and losses[0] in BILEVEL_LOSSES:
        return
    loss_key = f"method.{key or 'loss_type'}"
    loss = f"{loss_key} is {shown(view.get(loss_key))}"
    remedy = f"take {', '.join(BILEVEL_LOSSES[:-1])} or {BILEVEL_LOSSES[-1]}" + (
        " without TRL's options" if is_trl else ""
    )
    for name in [name for name, source in SOURCES.items() if source.policy_labels]:
        if view.get(f"method.sources.{name}.mixing"):
            what = f"{loss}; the source {name} has labels of the policy's own, which that loss does not know"
            yield rule_fault("method.loss_type", what, f"{remedy}, or remove method.sources.{name}")
    for name in [name for name, source in SOURCES.items() if source.policy_responses and not source.policy_labels]:
        if view.get(f"method.sources.{name}.mixing") and view.get(f"method.sources.{name}.gradient"):
            what = f"{loss}; that loss takes no gradient coefficient, and {name} has one"
            yield rule_fault("method.loss_type", what, f"{remedy}, or set method.sources.{name}.gradient to 0")
    if not is_trl:
        return
    for name, is_set in (
        ("method.kl.coefficient", view.get("method.kl.coefficient") > 0),
        ("method.optimism.coefficient", view.get("method.optimism.coefficient") > 0),
        ("method.nll.coefficient", view.get("method.nll.coefficient") > 0),
        ("method.initial_reference", view.get("method.initial_reference") > 0),
        ("method.importance_weight_cap", view.get("method.importance_weight_cap") is not None),
        ("train.per_device_max_tokens", view.get("train.per_device_max_tokens") is not None),
    ):
        if is_set:
            yield rule_fault(
                "method.loss_type", f"{loss}; TRL's own loss takes no {name}", f"{remedy}, or leave {name} out"
            )
    if view.get("label.ties") == "keep":
        what = f"{loss}; TRL's own loss takes hard labels, and label.ties keeps ties, whose label is one half"
        yield rule_fault("method.loss_type", what, f"{remedy}, or set label.ties to drop")
    if (labels := view.get("label.labels")) in ("soft", "win_rate"):
        what = f"{loss}; TRL's own loss takes hard labels, and label.labels is {labels}"
        yield rule_fault("method.loss_type", what, f"{remedy}, or set label.labels to hard or sampled")


def _loss_options_have_an_effect(view: View) -> Iterator[RuleFault]:
    losses = _losses(view)
    verb = "does" if len(losses) == 1 else "do"
    for name, users in LOSSES_OF_OPTIONS.items():
        key = f"method.{name}"
        if view.get(key) != MethodSection.model_fields[name].default and not set(losses) & set(users):
            what = f"{key} is {shown(view.get(key))}; {' and '.join(losses)} {verb} not look at it"
            yield rule_fault(key, what, f"leave it out, or set method.loss_type to {' or '.join(users)}")
    if view.get("method.f_alpha_divergence_coef") != 0.5 and view.get("method.f_divergence_type") != "alpha_divergence":
        what = "method.f_alpha_divergence_coef is set, but method.f_divergence_type is not alpha_divergence"
        yield rule_fault("method.f_alpha_divergence_coef", what, "leave it out")
    if view.get("method.f_divergence_type") != "reverse_kl" and not set(losses) <= set(F_DIVERGENCE_LOSSES):
        what = f"method.f_divergence_type does not go with {' and '.join(losses)}"
        yield rule_fault("method.f_divergence_type", what, f"it goes with {', '.join(F_DIVERGENCE_LOSSES)}")
    for loss in sorted({loss for loss in losses if losses.count(loss) > 1}):
        yield rule_fault("method.loss_type", f"method.loss_type names {loss} more than once", "name it once")
    if "exo_pair" in losses and not view.get("method.label_smoothing"):
        what = "method.label_smoothing is 0; exo_pair divides by it"
        yield rule_fault("method.loss_type", what, "set method.label_smoothing, such as 0.001")
    for name in ("use_weighting", "ld_alpha"):
        key = f"method.{name}"
        if losses[0] in ALIGNS_ALONE and view.get(key) != MethodSection.model_fields[name].default:
            what = f"{key} is {shown(view.get(key))}; {losses[0]} is no loss of TRL's and has no such option"
            yield rule_fault(key, what, "leave it out, or set method.loss_type to another loss")
    if view.get("method.use_weighting") and (unfit := [loss for loss in losses if loss in UNWEIGHABLE_LOSSES]):
        what = f"method.use_weighting does not go with {' and '.join(unfit)}: TRL cannot weigh its pairs"
        yield rule_fault("method.use_weighting", what, "leave it out, or take another loss")
    yield from _weights_fit_the_losses(view, losses)


def _weights_fit_the_losses(view: View, losses: list[str]) -> Iterator[RuleFault]:
    weights, key = view.get("method.loss_weights"), "method.loss_weights"
    if weights is None:
        return
    if weights and not any(weights):
        yield rule_fault(key, f"{key} are all 0: nothing would be learnt", "give at least one loss a weight above 0")
    if len(losses) == 1:
        what = f"{key} is set, but method.loss_type is {losses[0]} alone; weights are for a list of losses"
        yield rule_fault(key, what, "leave it out")
    elif len(weights) != len(losses):
        numbers = counted(len(weights), "weight")
        yield rule_fault(key, f"{key} has {numbers} for {len(losses)} losses", "give one weight a loss")


def _rebel_has_scores(view: View) -> Iterator[RuleFault]:
    """It regresses on a difference of scores: a dataset has none, nor has a labeler that gives verdicts."""
    if _losses(view) != ["rebel"]:
        return
    key = "method.loss_type"
    for name in SOURCES:
        if name != "dpr" and view.get(f"method.sources.{name}.mixing"):
            what = f"{key} is rebel, and pairs of the source {name} have no scores, on whose difference it regresses"
            yield rule_fault(key, what, f"give the share of {name} to dpr, or take another loss")
    labeler = view.get("method.sources.dpr.labeler")
    if labeler is not None and labeler_gives(view, labeler) == "verdicts":
        what = f"{key} is rebel, which regresses on a difference of scores, and {shown(labeler)} gives verdicts"
        yield rule_fault(key, what, "take a labeler that gives scores, or set method.loss_type to sppo or inpo")


def _initial_reference_is_beside_another(view: View) -> Iterator[RuleFault]:
    key = "method.initial_reference"
    if not (weight := view.get(key)):
        return
    of_policy = [name for name, source in SOURCES.items() if source.policy_labels]
    for reason, is_so, hint in (
        ("policy.reference is initial: that is the reference already", view.get("policy.reference") == "initial",
         "set policy.reference to previous"),
        ("simpo has no reference", _losses(view) == ["simpo"], "leave it out"),
        ("method.kl is to one policy", view.get("method.kl.coefficient") > 0, "set method.kl.coefficient to 0"),
        (f"{' and '.join(of_policy)} label pairs by one reference",
         any(view.get(f"method.sources.{name}.mixing") for name in of_policy),
         "set it to 0, or give their share to another source"),
    ):  # fmt: skip
        if is_so:
            yield rule_fault(key, f"{key} is {shown(weight)}, but {reason}", hint)


RULES: tuple[Rule, ...] = (
    _losses_are_finite,
    _only_own_losses_take_terms,
    _loss_options_have_an_effect,
    _rebel_has_scores,
    _initial_reference_is_beside_another,
)


def _cut_losses(recipe: Recipe) -> list[str]:
    cut = [loss for loss in recipe.method.loss_types if loss in ("aot", "aot_unpaired", "sft")]
    if cut and recipe.train.gradient_accumulation_steps > 1:
        return [
            f"method.loss_type {' and '.join(cut)}: TRL computes it over each forward pass, so the result depends on "
            "train.per_device_train_batch_size"
        ]
    return []


def _simpo_margin(recipe: Recipe) -> list[str]:
    method = recipe.method
    if method.loss_types == ["simpo"] and method.simpo_gamma > method.beta:
        return [
            f"method.simpo_gamma {method.simpo_gamma:g} is above method.beta {method.beta:g}: the paper takes gamma "
            "at 0.1 to 0.8 of beta, and beta 2 to 2.5"
        ]
    return []


def _robust_without_smoothing(recipe: Recipe) -> list[str]:
    if "robust" in recipe.method.loss_types and not recipe.method.label_smoothing:
        return ["method.label_smoothing is 0: robust is then the plain sigmoid loss; its paper suggests 0.1"]
    return []


WARNINGS = (_cut_losses, _simpo_margin, _robust_without_smoothing)
