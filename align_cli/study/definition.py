"""What a study is made of: its combinations of settings, their names and recipes, its seeds, and its runs.

A combination is one value of every axis; a run is a combination under a seed. Names depend on nothing but the settings,
so that further values and seeds find the runs that are there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.artifacts.json_text import shortened
from align_cli.errors import AlignError, Fault, RecipeError
from align_cli.recipe import Recipe, differences, load_recipe, resolved, warnings_for
from align_cli.recipe.presets import PRESET, is_file
from align_cli.stages.evaluate import evaluation_settings
from align_cli.study.values import OWN_KEYS, Axis, named

ALONE = "as-written"
"""The name of the only combination of a study that goes over no key."""
LONGEST_NAME = 60
MOST_RUNS = 10_000


class Combination(NamedTuple):
    """One value of every axis.

    Args:
        name: of its folder, and in tables.
        settings: values by key, as `--over` has them, in the order of the axes.
    """

    name: str
    settings: tuple[tuple[str, str], ...]

    @property
    def overrides(self) -> list[str]:
        """The settings, as a recipe takes them."""
        return [f"{key}={value}" for key, value in self.values.items()]

    @property
    def values(self) -> dict[str, str]:
        """The values by key, without their names."""
        return {key: named(text)[1] for key, text in self.settings}


class RunOfStudy(NamedTuple):
    """A combination under a seed."""

    combination: Combination
    seed: int

    @property
    def name(self) -> str:
        """Its folder below `runs/`."""
        return f"{self.combination.name}/seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.combination.name}, seed {self.seed}"


@dataclass(frozen=True)
class Definition:
    """A whole study, its recipes sound.

    Args:
        recipe: the recipe's file.
        overrides: of every run.
        axes: the keys that it goes over.
        seeds: in their order.
        for_tuning: whether its seeds are for choosing settings, not for reporting.
        recipes: the checked recipe of every combination, by name, under whatever seed.
    """

    recipe: Path
    overrides: tuple[str, ...]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    for_tuning: bool
    recipes: Mapping[str, Recipe] = field(compare=False)

    @cached_property
    def combinations(self) -> list[Combination]:
        """All of them; the first is what the others are compared with."""
        return combinations_of(self.axes)

    @cached_property
    def runs(self) -> list[RunOfStudy]:
        """Every run, seed by seed: whoever looks early finds whole comparisons."""
        return [RunOfStudy(combination, seed) for seed in self.seeds for combination in self.combinations]

    def recipe_of(self, run: RunOfStudy, folder: Path) -> Recipe:
        """The recipe of a run in a folder."""
        own = {"seed": run.seed, "output_dir": str(folder)}
        return self.recipes[run.combination.name].model_copy(update=own)

    def words_of(self, run: RunOfStudy, folder: Path) -> list[str]:
        """What follows `align train` on the command line for this run."""
        own = [f"seed={run.seed}", f"output_dir={json.dumps(str(folder), ensure_ascii=False)}"]
        return [str(self.recipe), *self.overrides, *run.combination.overrides, *own]


def define(
    recipe: Path, overrides: Sequence[str], axes: Sequence[Axis], seeds: Sequence[int], *, for_tuning: bool
) -> Definition:
    """A study of a recipe, every combination of it loaded and checked.

    Raises:
        AlignError: with all that is wrong, and in which combinations.
    """
    own = [text for text in overrides if text.partition("=")[0].strip() in OWN_KEYS]
    if own:
        key = own[0].partition("=")[0].strip()
        raise AlignError(f"a study sets {key} for each run", where=own[0], hint=OWN_KEYS[key])
    combinations = combinations_of(axes)
    if len(combinations) * len(seeds) > MOST_RUNS:
        what = f"these are {len(combinations)} combinations under {len(seeds)} seeds"
        raise AlignError(what, where="--over", hint=f"a study has at most {MOST_RUNS} runs")
    _refuse_namesakes(combinations)
    recipes = _load_all(recipe, overrides, combinations)
    _refuse_equal(combinations, recipes)
    _refuse_unmeasured(combinations, recipes)
    return Definition(recipe, tuple(overrides), tuple(axes), tuple(seeds), for_tuning, recipes)


def remarks(definition: Definition, *, begins: bool = True) -> list[str]:
    """What a user should know of a study before it runs, one sentence each, each once.

    Args:
        definition: of the study.
        begins: whether it does so now, so that names may still change.
    """
    first, *others = definition.combinations
    alone = ["this studies one setting, and compares nothing; --over KEY=A,B compares"] * (not others)
    found = alone + [text for one in definition.combinations for text in warnings_for(definition.recipes[one.name])]
    several = [axis.values for axis in definition.axes if len(axis.values) > 1]
    nameless = [value for values in several for value in values if value.startswith("{")]
    if nameless and begins:
        found.append(f"{shortened(nameless[0])} reads better in tables with a name of its own: NAME={{...}}")
    measured = _measured_by(definition.recipes[first.name])
    for other in others:
        changed = differences(measured, _measured_by(definition.recipes[other.name]))
        if changed:
            keys = ", ".join(one.key for one in changed)
            found.append(f"{first.name} and {other.name} are not measured alike ({keys}): their difference says little")
    moving = [one.name for one in definition.combinations if definition.recipes[one.name].policy.reference != "initial"]
    if moving:
        found.append(f"{moving[0]} has a reference that moves on: its KL to the initial policy is not known")
    return list(dict.fromkeys(found))


def _measured_by(recipe: Recipe) -> dict[str, Any]:
    """The keys that say what the figures of an evaluation mean: held-out data, how it is answered, and who judges."""
    tree = resolved(recipe)
    scorers = {name: tree["labelers"][name] for name in recipe.evaluate.all_scorers}
    held_out = {key: tree["data"][key] for key in ("eval_prompts", "eval_preferences")}
    answered = evaluation_settings(recipe)._asdict()
    fitted = any(recipe.labelers[name].artifacts() for name in scorers)
    found = {"evaluate": tree["evaluate"], "data": held_out, "generate": answered, "labelers": scorers}
    return found | ({"reward": tree["reward"]} if fitted else {})


def combinations_of(axes: Sequence[Axis]) -> list[Combination]:
    """Every combination, the last axis changing fastest."""
    short = short_keys([axis.key for axis in axes])
    keys = [axis.key for axis in axes]
    chosen = [tuple(zip(keys, values, strict=True)) for values in product(*(axis.values for axis in axes))]
    return [
        Combination(name_of([(short[key], called(key, value)) for key, value in settings]), settings)
        for settings in chosen
    ]


def called(key: str, value: str) -> str:
    """What a value is called in names: its own, or as it is written; a preset's file without its folder."""
    name, value = named(value)
    return name or (Path(value).stem if key == PRESET[0] and is_file(value) else value)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """What keys are called in names: their last part, or all of it where another has the same; nothing for presets."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    short = {key: part if last[part := key.rpartition(".")[2]] == 1 else key for key in keys}
    return {key: "" if key == PRESET[0] else part for key, part in short.items()}


def name_of(settings: Sequence[tuple[str, str]]) -> str:
    """`beta-0.1_rounds-3` of short keys and values, or values alone: what file systems and shells take.

    Where that is not all of them, a digest tells apart what would read alike.
    """
    if not settings:
        return ALONE
    parts = [f"{key}-{value}" if key else value for key, value in settings]
    name = "_".join(re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-") for part in parts)
    if name == "_".join(parts) and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:6]
    return f"{name[:LONGEST_NAME].rstrip('-_.')}-{digest}"


def _load_all(path: Path, overrides: Sequence[str], combinations: Sequence[Combination]) -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {}
    found: dict[tuple[str, str], list[tuple[Fault, str]]] = {}
    for combination in combinations:
        try:
            recipes[combination.name] = load_recipe(path, [*overrides, *combination.overrides])
        except RecipeError as error:
            for fault in error.faults:
                found.setdefault((fault.what, fault.hint), []).append((fault, combination.name))
    if found:
        raise RecipeError.of([_fault_in(told, len(combinations)) for told in found.values()])
    return recipes


def _fault_in(told: Sequence[tuple[Fault, str]], num_combinations: int) -> Fault:
    """A fault once, with the combinations that have it where others do not."""
    fault, names = told[0][0], list(dict.fromkeys(name for _, name in told))
    if len(names) == num_combinations:
        return fault
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return Fault(
        f"{fault.what} (in {listed})", fault.where, fault.hint, fault.snippet, fault.key, fault.line, fault.column
    )


def _refuse_namesakes(combinations: Sequence[Combination]) -> None:
    known: dict[str, Combination] = {}
    for one in combinations:
        other = known.setdefault(one.name.casefold(), one)  # as file systems are that do not tell A from a
        if other is not one:
            where = " ".join(f"--over {key}={text}" for key, text in one.settings)
            what = f"two combinations are called {one.name}"
            raise AlignError(what, where=where, hint="give the values, or the presets' files, other names")


def _refuse_equal(combinations: Sequence[Combination], recipes: Mapping[str, Recipe]) -> None:
    known: dict[str, str] = {}
    for combination in combinations:
        text = json.dumps(resolved(recipes[combination.name]), sort_keys=True, default=str)
        if text in known:
            raise AlignError(
                f"{known[text]} and {combination.name} are the same recipe",
                where="--over",
                hint="leave one of the values out",
            )
        known[text] = combination.name


def _refuse_unmeasured(combinations: Sequence[Combination], recipes: Mapping[str, Recipe]) -> None:
    for combination in combinations:
        if recipes[combination.name].data.eval_prompts is None:
            raise AlignError(
                f"{combination.name} is not evaluated, so there is nothing to compare",
                where="data.eval_prompts",
                hint="name prompts to evaluate on, and a scorer (evaluate.scorer) for win rates",
            )
