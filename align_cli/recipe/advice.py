"""What is worth knowing about a sound recipe before it runs: what is often not meant, and the code that it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder

from align_cli.recipe.resolve import has_gradient
from align_cli.recipe.schema import FunctionLabelerSection, Recipe


def warnings_for(recipe: Recipe) -> list[str]:
    """What is allowed but often not meant, one sentence each."""
    return [
        warning
        for check in (
            _scorer,
            _completions,
            _gradient,
            _self_labels,
            _replay,
            _precision,
            _opponents,
            _cut_losses,
            _demonstrated_prompts,
            _simpo_margin,
            _smoothing,
        )
        for warning in check(recipe)
    ]


def code_that_runs(recipe: Recipe) -> list[str]:
    """Every piece of code outside align that the recipe will run: Python functions, code that ships with a model."""
    pieces = [
        f"labelers.{name}: {labeler.function}{_file_of(labeler.function)}"
        for name, labeler in recipe.labelers.items()
        if isinstance(labeler, FunctionLabelerSection)
    ]
    if recipe.policy.trust_remote_code:
        pieces.append(
            f"policy.trust_remote_code: code that ships with {recipe.policy.model_name_or_path or 'the model'}"
        )
    return pieces


def _file_of(function: str) -> str:
    """The file that a module of somebody else's comes from, found as an import would find it, and not imported."""
    module = function.rpartition(":")[0]
    if module.endswith(".py") or module.partition(".")[0] == "align_cli":
        return ""
    names = module.split(".")
    folders: Sequence[str] | None = [*sys.path, ""]
    for depth in range(1, len(names) + 1):
        spec = PathFinder.find_spec(".".join(names[:depth]), folders) if folders is not None else None
        if spec is None:
            return ", which is not found here"
        folders = spec.submodule_search_locations
    return f", from {spec.origin}" if spec is not None and spec.origin else ""


def _scorer(recipe: Recipe) -> list[str]:
    scorer, dpr = recipe.evaluate.scorer, recipe.method.sources.dpr
    if scorer is not None and recipe.is_online and dpr is not None and dpr.labeler == scorer:
        return [f"evaluate.scorer is the training labeler, {scorer}: its win rate cannot tell learning from gaming it"]
    return []


def _completions(recipe: Recipe) -> list[str]:
    number, sources = recipe.generate.num_generations, recipe.method.sources.in_use()
    if recipe.preset == "iterative-dpo":  # which is just that
        return []
    if "dpr" in sources and number > 2 and recipe.label.pairs == "best_worst" and not has_gradient(recipe):
        return [f"of generate.num_generations {number} completions a prompt, label.pairs best_worst trains on two"]
    return []


def _gradient(recipe: Recipe) -> list[str]:
    warnings = []
    for name, source in recipe.method.sources.in_use().items():
        coefficient = getattr(source, "gradient", 0.0)
        if coefficient == 0 and source.policy_labels and recipe.method.loss_types == ["sigmoid"]:
            warnings.append(
                f"method.sources.{name}.gradient is 0: with DPO the policy's own labels then teach nothing, and "
                "these pairs only carry the KL"
            )
        if coefficient > 1:
            warnings.append(f"method.sources.{name}.gradient is {coefficient:g}: 1 is the exact bilevel gradient")
        elif coefficient == 1 and source.policy_labels:
            warnings.append(f"method.sources.{name}.gradient is 1: self-labelled sources were seen to diverge at 1")
    return warnings


def _precision(recipe: Recipe) -> list[str]:
    warnings = []
    if recipe.policy.dtype != "float32":
        warnings.append(
            f"policy.dtype is {recipe.policy.dtype}: small steps of the optimizer round away on weights of half "
            "precision; train in float32"
        )
    if recipe.train.training_arguments.get("fp16"):
        warnings.append(
            "train.fp16: a run that was interrupted may end in other bytes than one that was not; bf16 may not"
        )
    return warnings


def _replay(recipe: Recipe) -> list[str]:
    is_exact = has_gradient(recipe) or (recipe.method.kl.coefficient > 0 and recipe.method.kl.gradient == "full")
    if recipe.train.replay_rounds and is_exact and recipe.method.importance_weight_cap is None:
        return ["train.replay_rounds without method.importance_weight_cap: replayed responses are another policy's"]
    return []


def _self_labels(recipe: Recipe) -> list[str]:
    names = [name for name, source in recipe.method.sources.in_use().items() if source.policy_labels]
    warnings = []
    if names and recipe.policy.reference == "previous":
        warnings.append(
            f"policy.reference is previous: at a round's start policy and reference are equal, and every label of "
            f"{' and '.join(names)} is one half"
        )
    carries = recipe.method.kl.on == "all" or any(
        source.policy_responses for source in recipe.method.sources.in_use().values()
    )
    if names and not (recipe.method.kl.coefficient and carries):
        warnings.append(f"{' and '.join(names)} without method.kl: the policy's own labels hold it to nothing")
    return warnings


def _opponents(recipe: Recipe) -> list[str]:
    if recipe.evaluate.scorer is None and recipe.evaluate.against:
        return ["evaluate.scorer is not set: evaluations hold no win rate"]
    return []


def _smoothing(recipe: Recipe) -> list[str]:
    if "robust" in recipe.method.loss_types and not recipe.method.label_smoothing:
        return ["method.label_smoothing is 0: robust is then the plain sigmoid loss; its paper suggests 0.1"]
    return []


def _simpo_margin(recipe: Recipe) -> list[str]:
    method = recipe.method
    if method.loss_types == ["simpo"] and method.simpo_gamma > method.beta:
        return [
            f"method.simpo_gamma {method.simpo_gamma:g} is above method.beta {method.beta:g}: the paper takes gamma "
            "at 0.1 to 0.8 of beta, and beta 2 to 2.5"
        ]
    return []


def _demonstrated_prompts(recipe: Recipe) -> list[str]:
    samples = [name for name, source in recipe.method.sources.in_use().items() if source.policy_responses]
    if samples == ["dmd"] and recipe.data.prompts is not None:
        return [
            "data.prompts is set, and dmd alone samples the policy: prompts without a demonstration are sampled in "
            "vain; left out, the prompts are those of data.demonstrations"
        ]
    return []


def _cut_losses(recipe: Recipe) -> list[str]:
    cut = [loss for loss in recipe.method.loss_types if loss in ("aot", "aot_unpaired", "sft")]
    if cut and recipe.train.gradient_accumulation_steps > 1:
        return [
            f"method.loss_type {' and '.join(cut)}: TRL computes it over each forward pass, so the result depends on "
            "train.per_device_train_batch_size"
        ]
    return []
