"""What the loss, its coefficients and the way of sampling ask of each other: one small function a rule.

Each rule protects a statement of docs/method.md: an expectation needs whole and unchosen draws, a coefficient needs a
loss that it belongs to. Called by `rules`.
"""

from __future__ import annotations

from collections.abc import Iterator

from align_cli.recipe.checks.view import Rule, RuleFault, View, rule_fault
from align_cli.recipe.schema import BILEVEL_LOSSES, LOSS_TYPE_ALIASES, OWN_LOSSES, MethodSection
from align_cli.recipe.written.tree import shown

POLICY_SOURCES = ("dpp", "dpr", "dmd")
DATASET_SOURCES = ("offline", "ddp")
LOSSES_OF_OPTIONS = {
    "label_smoothing": ("robust", "exo_pair", "aot", "aot_unpaired"),
    "discopop_tau": ("discopop",),
    "simpo_gamma": ("simpo",),
}
F_DIVERGENCE_LOSSES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")

UNWEIGHABLE_LOSSES = ("aot", "aot_unpaired", "hinge", "sft")
"""Those that sort their pairs, or whose tensor TRL multiplies in place where autograd does not allow it."""
_BIAS = "leaving pairs out would bias the gradient"


def _gradient_source(view: View) -> str | None:
    """The first source whose responses carry the bilevel response term."""
    for name in POLICY_SOURCES:
        if view.get(f"method.sources.{name}.mixing") and view.get(f"method.sources.{name}.gradient"):
            return name
    return None


def _gradient_needs_the_whole_distribution(view: View) -> Iterator[RuleFault]:
    source = _gradient_source(view)
    if source is None:
        return
    reason = "with a gradient above 0 responses must come from the policy's whole distribution"
    if (top_k := view.sound("generate.top_k")) is not None and top_k > 0:
        yield rule_fault("generate.top_k", f"generate.top_k is {top_k}; {reason}", _off("generate.top_k to 0", source))
    if (top_p := view.sound("generate.top_p")) is not None and top_p < 1:
        yield rule_fault(
            "generate.top_p", f"generate.top_p is {top_p}; {reason}", _off("generate.top_p to 1.0", source)
        )


def _gradient_corrects_for_temperature(view: View) -> Iterator[RuleFault]:
    source = _gradient_source(view)
    if source is None or view.get("method.importance_weight_cap") is not None:
        return
    if (temperature := view.get("generate.temperature")) != 1:
        what = (
            f"generate.temperature is {temperature}; with a gradient above 0 responses of another temperature than 1 "
            "need importance weights"
        )
        hint = f"set method.importance_weight_cap, such as 10, or {_off('generate.temperature to 1.0', source)[4:]}"
        yield rule_fault("generate.temperature", what, hint)


def _weights_need_the_whole_support(view: View) -> Iterator[RuleFault]:
    if view.get("method.importance_weight_cap") is None or _gradient_source(view) is not None:
        return
    for key, is_cut in (
        ("generate.top_k", view.get("generate.top_k") > 0),
        ("generate.top_p", view.get("generate.top_p") < 1),
    ):
        if is_cut:
            what = f"{key} is {view.get(key)}; importance weights cannot make up for responses that were never sampled"
            whole = "0" if key.endswith("k") else "1.0"
            yield rule_fault(key, what, f"set {key} to {whole}, or leave method.importance_weight_cap out")


def _expectations_keep_every_pair(view: View) -> Iterator[RuleFault]:
    """What is an expectation over responses must not lose those that a score or a text singles out."""
    keys = ["label.equal_texts", "label.empty_texts"]
    kl = view.get("method.kl.coefficient") and view.get("method.kl.gradient") == "full"
    for name in ("dpr", "dmd"):
        if not view.get(f"method.sources.{name}.mixing"):
            continue
        if view.get(f"method.sources.{name}.gradient"):
            reason, off = "a gradient above 0", f"method.sources.{name}.gradient to 0"
        elif kl:
            reason, off = "the full KL", "method.kl.gradient to pathwise"
        elif name == "dpr" and view.get("method.optimism.coefficient"):
            reason, off = "optimism", "method.optimism.coefficient to 0"
        else:
            continue
        for key in ["label.ties", *keys] if name == "dpr" else keys:
            if view.sound(key) == "drop":
                what = f"{key} is drop; with {reason} {_BIAS}"
                yield rule_fault(key, what, f"set {key} to keep, or {off}")
        margin = view.sound("label.min_margin")
        if name == "dpr" and margin:
            what = f"label.min_margin is {margin}; with {reason} {_BIAS}"
            yield rule_fault("label.min_margin", what, f"set label.min_margin to 0, or {off}")
        return


def _off(remedy: str, source: str) -> str:
    return f"set {remedy}, or method.sources.{source}.gradient to 0"


def _kl_has_responses(view: View) -> Iterator[RuleFault]:
    """KL on the policy's responses needs such, and its full gradient needs nothing else."""
    if not view.get("method.kl.coefficient"):
        return
    from_policy = [name for name in POLICY_SOURCES if view.get(f"method.sources.{name}.mixing")]
    foreign = [name for name in (*DATASET_SOURCES, "dmd") if view.get(f"method.sources.{name}.mixing")]
    if view.get("generate.num_reference_generations"):
        foreign.append("the reference")
    if view.get("method.kl.on") == "policy" and not from_policy:
        what = "method.kl.on is policy, but no source samples the policy: no response would carry the KL"
        yield rule_fault("method.kl", what, "set method.kl.on to all and method.kl.gradient to pathwise")
    if view.get("method.kl.on") == "policy" and view.get("generate.num_reference_generations") > 1:
        what = (
            "method.kl.on is policy, and generate.num_reference_generations is above 1: pairs of two of the "
            "reference's responses would carry no KL"
        )
        yield rule_fault("method.kl", what, "set generate.num_reference_generations to 1, or method.kl.on to all")
    if view.get("method.kl.on") == "all" and view.get("method.kl.gradient") == "full" and foreign:
        what = (
            f"method.kl.gradient is full on the responses of {' and '.join(foreign)}; it is exact on the policy's "
            "own responses alone"
        )
        yield rule_fault("method.kl", what, "set method.kl.gradient to pathwise, or method.kl.on to policy")
    if view.get("method.kl.gradient") != "full" or not from_policy:
        return
    if _chooses(view) and view.get("method.sources.dpr.mixing"):
        what = (
            "method.kl.gradient is full, and label.pairs chooses two of more responses; chosen responses are no draws "
            "from the policy, so it would not be exact"
        )
        yield rule_fault("method.kl", what, "set method.kl.gradient to pathwise, or label.pairs to all")
    if view.get("generate.top_k") or view.get("generate.top_p") < 1:
        what = "method.kl.gradient is full; with top_k or top_p responses are no draws from the policy"
        yield rule_fault("method.kl", what, "set method.kl.gradient to pathwise, or sample the whole distribution")
    if view.get("generate.temperature") != 1 and view.get("method.importance_weight_cap") is None:
        what = "method.kl.gradient is full; at another temperature than 1 responses are no draws from the policy"
        yield rule_fault(
            "method.kl", what, "set method.importance_weight_cap, such as 10, or generate.temperature to 1.0"
        )


def _chooses(view: View) -> bool:
    """Whether pairs of dpr are a choice among more than two responses."""
    number = view.get("generate.num_generations") + view.get("generate.num_reference_generations")
    return bool(number > 2 and view.get("label.pairs") != "all")


def _optimism_has_responses(view: View) -> Iterator[RuleFault]:
    """The term is an expectation over the reference's responses: they must be there, whole and as drawn."""
    if not view.get("method.optimism.coefficient"):
        return
    where, key = view.get("method.optimism.on"), "method.optimism"
    if not view.get("method.sources.dpr.mixing"):
        what = "method.optimism without a share of the source dpr: no pair would carry it"
        yield rule_fault(key, what, "give dpr a share, or set method.optimism.coefficient to 0")
        return
    if where == "reference" and not view.get("generate.num_reference_generations"):
        what = "method.optimism.on is reference, but generate.num_reference_generations is 0"
        hint = "set generate.num_reference_generations to 1, and generate.num_generations to 1"
        if view.get("policy.reference") == "previous":
            hint = "set method.optimism.on to policy: with policy.reference previous that policy is the reference"
        yield rule_fault(key, what, hint)
    elif where == "policy" and view.get("policy.reference") != "previous":
        what = "method.optimism.on is policy, but policy.reference is not previous: the reference sampled none of them"
        yield rule_fault(key, what, "set policy.reference to previous, or method.optimism.on to reference")
    elif where == "policy" and view.get("train.replay_rounds"):
        what = "method.optimism.on is policy, and train.replay_rounds is above 0: another reference sampled those pairs"
        yield rule_fault(key, what, "set train.replay_rounds to 0")
    elif where == "reference" and view.get("generate.num_generations") > 1 and not _chooses(view):
        what = "method.optimism.on is reference, and generate.num_generations is above 1: some pairs would carry none"
        yield rule_fault(key, what, "set generate.num_generations to 1")
    if _chooses(view):
        what = "method.optimism on two chosen of more responses; chosen responses are no draws from the reference"
        one_each = "set generate.num_generations and generate.num_reference_generations to 1"
        yield rule_fault(key, what, one_each if where == "reference" else "set label.pairs to all")
    if view.get("generate.top_k") or view.get("generate.top_p") < 1 or view.get("generate.temperature") != 1:
        what = (
            "method.optimism with top_k, top_p or another temperature than 1: responses are no draws from the reference"
        )
        yield rule_fault(key, what, "sample the whole distribution at temperature 1")


def _losses(view: View) -> list[str]:
    written = view.get("method.loss_type")
    losses: list[str] = written if isinstance(written, list) else [written]
    return [LOSS_TYPE_ALIASES.get(loss, loss) for loss in losses]


def _trl_key(view: View) -> str | None:
    """The first key that makes the loss TRL's own."""
    losses = _losses(view)
    if len(losses) > 1 or losses[0] not in OWN_LOSSES:
        return "loss_type"
    fields = MethodSection.model_fields
    options = (name for name in MethodSection.TRL_OPTIONS if view.get(f"method.{name}") != fields[name].default)
    return next(options, None)


def _only_own_losses_take_terms(view: View) -> Iterator[RuleFault]:
    """TRL's losses run as they are: nothing can be added to them, nor their labels replaced."""
    losses, key = _losses(view), _trl_key(view)
    if len(losses) > 1 and "simpo" in losses:
        what = "method.loss_type: simpo stands alone; it is no loss of TRL's"
        yield rule_fault("method.loss_type", what, "remove it")
    is_trl = key is not None
    if not is_trl and losses[0] in BILEVEL_LOSSES:
        return
    loss_key = f"method.{key or 'loss_type'}"
    loss = f"{loss_key} is {shown(view.get(loss_key))}"
    remedy = f"take {', '.join(BILEVEL_LOSSES[:-1])} or {BILEVEL_LOSSES[-1]}" + (
        " without TRL's options" if is_trl else ""
    )
    for name in ("ddp", "dpp"):
        if view.get(f"method.sources.{name}.mixing"):
            what = f"{loss}; the source {name} has labels of the policy's own, which that loss does not know"
            yield rule_fault("method.loss_type", what, f"{remedy}, or remove method.sources.{name}")
    for name in ("dpr", "dmd"):
        if view.get(f"method.sources.{name}.mixing") and view.get(f"method.sources.{name}.gradient"):
            what = f"{loss}; that loss takes no gradient coefficient, and {name} has one"
            yield rule_fault("method.loss_type", what, f"{remedy}, or set method.sources.{name}.gradient to 0")
    if not is_trl:
        return
    for name, is_set in (
        ("method.kl.coefficient", view.get("method.kl.coefficient") > 0),
        ("method.optimism.coefficient", view.get("method.optimism.coefficient") > 0),
        ("method.importance_weight_cap", view.get("method.importance_weight_cap") is not None),
    ):
        if is_set:
            yield rule_fault(
                "method.loss_type", f"{loss}; TRL's own loss takes no {name}", f"{remedy}, or leave {name} out"
            )
    if view.get("label.ties") == "keep":
        what = f"{loss}; TRL's own loss takes hard labels, and label.ties keeps ties, whose label is one half"
        yield rule_fault("method.loss_type", what, f"{remedy}, or set label.ties to drop")
    if view.get("label.labels") == "soft":
        what = f"{loss}; TRL's own loss takes hard labels, and label.labels is soft"
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
        if losses == ["simpo"] and view.get(key) != MethodSection.model_fields[name].default:
            what = f"{key} is {shown(view.get(key))}; simpo is no loss of TRL's and has no such option"
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
        numbers = "1 weight" if len(weights) == 1 else f"{len(weights)} weights"
        yield rule_fault(key, f"{key} has {numbers} for {len(losses)} losses", "give one weight a loss")


METHOD_RULES: tuple[Rule, ...] = (
    _gradient_needs_the_whole_distribution,
    _gradient_corrects_for_temperature,
    _weights_need_the_whole_support,
    _expectations_keep_every_pair,
    _kl_has_responses,
    _optimism_has_responses,
    _only_own_losses_take_terms,
    _loss_options_have_an_effect,
)
