"""What is worth knowing about a sound recipe before it runs: what is often not meant, and the code that it runs."""

from __future__ import annotations

from align_cli.recipe.resolve import has_gradient
from align_cli.recipe.schema import FunctionLabelerSection, Recipe


def warnings_for(recipe: Recipe) -> list[str]:
    """What is allowed but often not meant, one sentence each."""
    return [warning for check in (_scorer, _completions, _gradient, _opponents) for warning in check(recipe)]


def code_that_runs(recipe: Recipe) -> list[str]:
    """Every piece of code outside align that the recipe will run: Python functions, code that ships with a model."""
    pieces = [
        f"labelers.{name}: {labeler.function}"
        for name, labeler in recipe.labelers.items()
        if isinstance(labeler, FunctionLabelerSection)
    ]
    if recipe.policy.trust_remote_code:
        pieces.append(
            f"policy.trust_remote_code: code that ships with {recipe.policy.model_name_or_path or 'the model'}"
        )
    return pieces


def _scorer(recipe: Recipe) -> list[str]:
    scorer, dpr = recipe.evaluate.scorer, recipe.method.sources.dpr
    if scorer is not None and recipe.is_online and dpr is not None and dpr.labeler == scorer:
        return [f"evaluate.scorer is the training labeler, {scorer}: its win rate cannot tell learning from gaming it"]
    return []


def _completions(recipe: Recipe) -> list[str]:
    number = recipe.generate.num_generations
    if recipe.is_online and number > 2 and recipe.label.pairs == "best_worst":
        return [f"of generate.num_generations {number} completions a prompt, label.pairs best_worst trains on two"]
    return []


def _gradient(recipe: Recipe) -> list[str]:
    dpr = recipe.method.sources.dpr
    if dpr is not None and has_gradient(recipe) and dpr.gradient > 1:
        return [f"method.sources.dpr.gradient is {dpr.gradient:g}: 1 is the exact bilevel gradient, the paper uses 0.3"]
    return []


def _opponents(recipe: Recipe) -> list[str]:
    if recipe.evaluate.scorer is None and recipe.evaluate.against:
        return ["evaluate.scorer is not set: evaluations hold no win rate"]
    return []
