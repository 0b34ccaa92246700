"""What spans several keys of a recipe: one small function a rule, with its reason and its remedy in the text.

Rules read a `View`, which stops a rule whose keys are faulty themselves. Called by `check`; what concerns the method is
in `rules_method`, what concerns files in `rules_files`.
"""

from __future__ import annotations

from collections.abc import Iterator

from align_cli.errors import nearest
from align_cli.recipe.checks.rules_files import FILE_RULES
from align_cli.recipe.checks.rules_method import DATASET_SOURCES, METHOD_RULES
from align_cli.recipe.checks.rules_secrets import no_secrets
from align_cli.recipe.checks.view import Rule, RuleFault, UnsoundError, View, rule_fault
from align_cli.recipe.schema import GuardsSection
from align_cli.recipe.written.tree import shown

SHARE_TOLERANCE = 1e-9


def broken_rules(view: View, *, with_files: bool = True) -> list[RuleFault]:
    """The faults of every rule whose keys are sound; `with_files`, also of those that look at the disk."""
    faults: list[RuleFault] = []
    for rule in (no_secrets, *RULES, *METHOD_RULES, *(FILE_RULES if with_files else ())):
        try:
            faults.extend(rule(view))
        except UnsoundError:
            continue
    return faults


def _some_source(view: View) -> Iterator[RuleFault]:
    if not view.written("method.sources"):
        yield rule_fault("method.sources", "method.sources names no source", "add offline: {mixing: 1.0}, or dpr")


def _shares_sum_to_one(view: View) -> Iterator[RuleFault]:
    shares = {name: view.get(f"method.sources.{name}.mixing") for name in view.written("method.sources")}
    total = sum(shares.values())
    if not shares or abs(total - 1) <= SHARE_TOLERANCE:
        return
    listed = " and ".join(f"{name} {share:g}" for name, share in shares.items())
    what = f"method.sources: the shares {listed} sum to {total:.10g}; they must sum to 1"
    yield rule_fault("method.sources", what, _share_remedy(shares))


def _share_remedy(shares: dict[str, float]) -> str:
    last = list(shares)[-1]
    rest = 1 - sum(shares.values()) + shares[last]
    if 0 < rest <= 1:
        return f"set method.sources.{last}.mixing to {rest:.10g}"
    return "set the mixing of one source to what the others leave of 1"


def _dpr_has_a_labeler(view: View) -> Iterator[RuleFault]:
    name = view.get("method.sources.dpr.labeler")
    if name is None:
        if view.get("method.sources.dpr.mixing"):
            what = "method.sources.dpr has no labeler; its responses come from the policy and need a score"
            yield rule_fault("method.sources.dpr", what, f"set method.sources.dpr.labeler; {_defined(view)}")
        return
    yield from _unknown_labeler(view, "method.sources.dpr.labeler", name)
    if name in view.labeler_names() and view.labeler(name)["kind"] == "dataset":
        what = f"method.sources.dpr.labeler is {shown(name)}, of kind dataset; no dataset labels the policy's responses"
        yield rule_fault("method.sources.dpr.labeler", what, "name a labeler of kind function")


def _offline_labeler_is_the_dataset(view: View) -> Iterator[RuleFault]:
    name = view.get("method.sources.offline.labeler")
    if name in {None, "dataset"}:
        return
    yield from _unknown_labeler(view, "method.sources.offline.labeler", name)
    if name in view.labeler_names() and (kind := view.labeler(name)["kind"]) != "dataset":
        what = f"method.sources.offline.labeler is {shown(name)}, of kind {kind}; offline pairs keep their own labels"
        yield rule_fault("method.sources.offline.labeler", what, "leave it out, or name a labeler of kind dataset")


def _scorer_scores(view: View) -> Iterator[RuleFault]:
    name = view.get("evaluate.scorer")
    if name is None:
        return
    yield from _unknown_labeler(view, "evaluate.scorer", name)
    if name in view.labeler_names() and (kind := view.labeler(name)["kind"]) != "function":
        what = f"evaluate.scorer is {shown(name)}, of kind {kind}; a scorer must give scores"
        yield rule_fault("evaluate.scorer", what, "name a labeler of kind function, or leave it out: no win rate then")


def _scorer_needs_prompts(view: View) -> Iterator[RuleFault]:
    if view.get("evaluate.scorer") is not None and view.get("data.eval_prompts") is None:
        what = "data.eval_prompts is not set; evaluate.scorer scores completions of held-out prompts"
        yield rule_fault("data.eval_prompts", what, "set data.eval_prompts, or leave evaluate.scorer out")


def _unknown_labeler(view: View, key: str, name: str) -> Iterator[RuleFault]:
    known = view.labeler_names()
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near else _defined(view)
        yield rule_fault(key, f"{key} is {shown(name)}; labelers defines no such labeler", hint)


def _defined(view: View) -> str:
    names = [shown(name)[1:-1] for name in view.labeler_names()]
    return f"labelers defines {', '.join(names)}" if names else "define one under labelers"


def _labeler_names_are_words(view: View) -> Iterator[RuleFault]:
    for name in view.labeler_names():
        if not name.replace("-", "_").isidentifier():
            what = f"the labeler's name {shown(name)} is not a word"
            yield rule_fault(("labelers", name), what, "use letters, digits, - and _, so that overrides can name it")


def _dataset_is_no_other_labelers_name(view: View) -> Iterator[RuleFault]:
    if "dataset" in view.labeler_names() and view.labeler("dataset")["kind"] != "dataset":
        what = "labelers.dataset is not of kind dataset; the name means the labels that pairs came with"
        yield rule_fault(("labelers", "dataset"), what, "give the labeler another name")


def _dataset_sources_need_preferences(view: View) -> Iterator[RuleFault]:
    for name in DATASET_SOURCES:
        if view.get(f"method.sources.{name}.mixing") and view.get("data.preferences") is None:
            what = f"data.preferences is not set; the source {name} takes its pairs from it"
            yield rule_fault("data.preferences", what, f"set data.preferences, or remove method.sources.{name}")
            return


def _policy_sources_need_prompts(view: View) -> Iterator[RuleFault]:
    if view.get("data.prompts") is not None or view.get("data.demonstrations") is not None:
        return
    for name in ("dpp", "dpr"):
        if view.get(f"method.sources.{name}.mixing"):
            what = f"data.prompts is not set; the source {name} samples the policy on it"
            yield rule_fault("data.prompts", what, f"set data.prompts, or remove method.sources.{name}")
            return


def _mixed_pairs_need_demonstrations(view: View) -> Iterator[RuleFault]:
    if view.get("method.sources.dmd.mixing") and view.get("data.demonstrations") is None:
        what = "data.demonstrations is not set; the source dmd takes the chosen responses from it"
        yield rule_fault("data.demonstrations", what, "set data.demonstrations, or remove method.sources.dmd")


def _pairs_need_two_completions(view: View) -> Iterator[RuleFault]:
    number, of_reference = view.get("generate.num_generations"), view.get("generate.num_reference_generations")
    for name, completions in (("dpp", number), ("dpr", number + of_reference)):
        if view.get(f"method.sources.{name}.mixing") and completions < 2:
            what = (
                f"generate.num_generations is {number}; a pair of the source {name} needs at least 2 completions of a "
                "prompt"
            )
            yield rule_fault("generate.num_generations", what, "set generate.num_generations to 2")
            return


def _reference_completions_have_a_use(view: View) -> Iterator[RuleFault]:
    key = "generate.num_reference_generations"
    if not (number := view.get(key)):
        return
    if not view.get("method.sources.dpr.mixing"):
        yield rule_fault(key, f"{key} is {number}; only the source dpr pairs them", f"set {key} to 0")
    if view.get("policy.reference") == "previous":
        what = f"{key} is {number}, but policy.reference is previous: the policy that a round samples is its reference"
        yield rule_fault(key, what, "raise generate.num_generations instead, or set policy.reference to initial")


def _one_model(view: View) -> Iterator[RuleFault]:
    has_name, is_new = view.get("policy.model_name_or_path") is not None, view.has("policy.from_scratch")
    if has_name and is_new:
        what = "policy has both model_name_or_path and from_scratch; the policy is one of them"
        yield rule_fault("policy.from_scratch", what, "remove one")
    if not has_name and not is_new:
        what = "policy names no model"
        yield rule_fault("policy", what, "set policy.model_name_or_path, or policy.from_scratch for a new model")


def _new_model_is_trained(view: View) -> Iterator[RuleFault]:
    if view.has("policy.from_scratch") and not view.has("policy.sft"):
        what = "policy.from_scratch without policy.sft; a new model gets its tokenizer and all that it knows from it"
        yield rule_fault("policy.from_scratch", what, "add policy.sft with a dataset")


def _heads_divide_the_width(view: View) -> Iterator[RuleFault]:
    if not view.has("policy.from_scratch"):
        return
    width = view.get("policy.from_scratch.hidden_size")
    heads = view.get("policy.from_scratch.num_attention_heads")
    key = "policy.from_scratch.num_attention_heads"
    if width % heads:
        yield rule_fault(key, f"{key} is {heads}; it must divide hidden_size, {width}", _near_heads(width, heads))
    elif width // heads % 2:
        what = f"{key} is {heads}; a head of {width // heads} would be odd, and rotary positions turn pairs of numbers"
        yield rule_fault(key, what, _near_heads(width, heads))


def _near_heads(width: int, heads: int) -> str:
    fitting = [number for number in range(1, min(width, 1024) + 1) if width % (2 * number) == 0]
    if not fitting:
        return "set hidden_size to an even number"
    return f"{min(fitting, key=lambda number: abs(number - heads))} fits"


def _rollback_knows_the_best(view: View) -> Iterator[RuleFault]:
    for name in GuardsSection.model_fields:
        key = f"guards.{name}.action"
        if view.has(f"guards.{name}") and view.sound(key) == "rollback":
            measured = view.get("evaluate.scorer") is not None and "initial" in view.get("evaluate.against")
            if not measured:
                what = f"{key} is rollback, but no win rate against the initial policy says which round is the best"
                yield rule_fault(key, what, "set evaluate.scorer and evaluate.against: [initial], or another action")


def _opponents_differ(view: View) -> Iterator[RuleFault]:
    against = view.get("evaluate.against")
    for opponent in sorted({name for name in against if against.count(name) > 1}):
        yield rule_fault("evaluate.against", f"evaluate.against names {opponent} more than once", "name it once")


RULES: tuple[Rule, ...] = (
    _some_source,
    _shares_sum_to_one,
    _dpr_has_a_labeler,
    _offline_labeler_is_the_dataset,
    _scorer_scores,
    _scorer_needs_prompts,
    _labeler_names_are_words,
    _dataset_is_no_other_labelers_name,
    _dataset_sources_need_preferences,
    _policy_sources_need_prompts,
    _mixed_pairs_need_demonstrations,
    _pairs_need_two_completions,
    _reference_completions_have_a_use,
    _one_model,
    _new_model_is_trained,
    _heads_divide_the_width,
    _opponents_differ,
    _rollback_knows_the_best,
)
