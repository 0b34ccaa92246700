"""What the sections ask and advise, each in one tuple; the sections' order is the recipe's.

Rules read a `View`, which stops a rule whose keys are faulty themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from align_cli.recipe import recipe as whole
from align_cli.recipe.checking.secrets import no_secrets
from align_cli.recipe.checking.view import Rule, RuleFault, UnsoundError, View
from align_cli.recipe.recipe import Recipe
from align_cli.recipe.sections import (
    checkpoints,
    data,
    evaluate,
    generate,
    guards,
    kl,
    label,
    labelers,
    launch,
    lora,
    method,
    nll,
    optimism,
    policy,
    quantization,
    reward,
    rounds_ahead,
    sources,
    train,
    worlds,
)
from align_cli.recipe.sections.labelers.code import code_in_words

RULES: tuple[Rule, ...] = (
    no_secrets,
    *whole.RULES,
    *policy.RULES,
    *lora.RULES,
    *quantization.RULES,
    *data.RULES,
    *reward.RULES,
    *labelers.RULES,
    *sources.RULES,
    *kl.RULES,
    *optimism.RULES,
    *nll.RULES,
    *method.RULES,
    *generate.RULES,
    *rounds_ahead.RULES,
    *label.RULES,
    *evaluate.RULES,
    *guards.RULES,
    *launch.RULES,
)
FILE_RULES: tuple[Rule, ...] = (
    *whole.FILE_RULES,
    *policy.FILE_RULES,
    *lora.FILE_RULES,
    *data.FILE_RULES,
    *worlds.FILE_RULES,
    *reward.FILE_RULES,
    *labelers.FILE_RULES,
    *train.FILE_RULES,
    *launch.FILE_RULES,
)
WARNINGS: tuple[Callable[[Recipe], list[str]], ...] = (
    *policy.WARNINGS,
    *lora.WARNINGS,
    *data.WARNINGS,
    *reward.WARNINGS,
    *sources.WARNINGS,
    *method.WARNINGS,
    *kl.WARNINGS,
    *rounds_ahead.WARNINGS,
    *label.WARNINGS,
    *train.WARNINGS,
    *evaluate.WARNINGS,
    *checkpoints.WARNINGS,
    *launch.WARNINGS,
)


def broken_rules(view: View, *, with_files: bool = True) -> list[RuleFault]:
    """The faults of every rule whose keys are sound; `with_files`, also of those that look at the disk."""
    faults: list[RuleFault] = []
    for rule in (*RULES, *(FILE_RULES if with_files else ())):
        view.asked()
        try:
            faults.extend(replace(fault, asked=view.asked()) for fault in list(rule(view)))
        except UnsoundError:
            continue
    return faults


def warnings_for(recipe: Recipe) -> list[str]:
    """What is allowed but often not meant, one sentence each."""
    rounds = {len(values) for values in recipe.method.schedule.values()} or {1}
    recipes = [recipe.of_round(number) for number in range(1, max(rounds) + 1)]
    found = [warning for each in recipes for check in WARNINGS for warning in check(each)]
    return list(dict.fromkeys(found)) + _values_in_vain(recipe)


def _values_in_vain(recipe: Recipe) -> list[str]:
    return [
        f"method.{key} has {len(values)} values for {recipe.rounds} rounds: the last ones are never reached"
        for key, values in recipe.method.schedule.items()
        if len(values) > recipe.rounds
    ]


def code_that_runs(recipe: Recipe) -> list[str]:
    """Every piece of code outside align that the recipe will run: Python functions, code that ships with a model."""
    reward = recipe.reward.code() if recipe.reward else ()
    return [*code_in_words(recipe.labelers), *recipe.policy.code(), *reward, *recipe.generate.code()]
