"""What the runs of a study say: means over seeds, paired differences, also at equal KL, and the reward-KL frontier.

The figures of a run are those of the policy that it ends with, whatever round was best: the best of several noisy
evaluations is too good by its choice. Only finished runs are in means and differences; the evaluations of all runs are
points of the frontier. Equal runs give equal results, byte for byte: what takes time is in `costs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from align_cli.artifacts.records import Evaluation
from align_cli.errors import AlignError
from align_cli.metrics.frontier import Point, best_of_paths, common_kl, envelope, is_inside_first_stretch, value_at
from align_cli.metrics.over_seeds import OverSeeds, mean_over_seeds, paired_difference
from align_cli.recipe import Recipe
from align_cli.run.folder import RunFolder
from align_cli.run.results import Results
from align_cli.study.definition import Combination, Definition, RunOfStudy, called, name_of, short_keys
from align_cli.study.folder import StudyFolder, described
from align_cli.study.work import is_finished

SCHEMA_VERSION = 1
WIN, CONTROLLED, REWARD, KL = "win_rate", "length_controlled_win_rate", "reward", "kl"
GAINS = (WIN, CONTROLLED, REWARD)
"""What is compared at equal KL."""
MEASURES = (*GAINS, KL, "length", "eos_rate", "distinct_2", "pair_accuracy")
"""What is told of a policy; how often it wins by every other scorer (`win_rate.<scorer>`) comes behind them."""
OPPONENT = "initial"
KL_KEYS = ("method.kl.coefficient", "method.kl.target")
"""The sweep whose runs make one frontier."""
ALL = "all"
LEVELS = (0.25, 0.5, 0.75, 1.0)
"""Where frontiers are compared, as shares of the KL that all of them come to."""


class Evaluated(NamedTuple):
    """A round's figures.

    Args:
        round: its number.
        figures: by measure; a measure that was not taken is not in them.
        is_on_path: whether the run went on from its policy; not where it fell back to an earlier one.
    """

    round: int
    figures: dict[str, float]
    is_on_path: bool = True


@dataclass
class RunFigures:
    """What a run has to show.

    Args:
        run: which one.
        evaluations: by round.
        final: the round whose policy it ends with; None where it is not finished.
        why: it is not, in words.
    """

    run: RunOfStudy
    evaluations: list[Evaluated] = field(default_factory=list)
    final: int | None = None
    why: str | None = None

    @property
    def figures(self) -> dict[str, float]:
        """Of the policy that it ends with; none where it is not finished."""
        return next((one.figures for one in self.evaluations if one.round == self.final), {})

    def path(self, measure: str) -> list[Point]:
        """Its way through the plane of KL and a measure."""
        return [
            Point(one.figures[KL], one.figures[measure])
            for one in self.evaluations
            if one.is_on_path and measure in one.figures and KL in one.figures
        ]


def collect(definition: Definition, folder: StudyFolder, failed: Mapping[RunOfStudy, str]) -> list[RunFigures]:
    """The figures of every run, as far as it came.

    Args:
        definition: of the study.
        folder: the study's.
        failed: why runs did not finish.
    """
    return [_figures_of(run, definition.recipe_of(run, folder.run(run)), failed) for run in definition.runs]


def _figures_of(run: RunOfStudy, recipe: Recipe, failed: Mapping[RunOfStudy, str]) -> RunFigures:
    folder, found = RunFolder(recipe.output_dir), RunFigures(run)
    try:
        if folder.exists:
            results = Results(recipe, folder)
            evaluations = results.evaluations()
            found.evaluations = [
                Evaluated(one.round, figures_of(one, recipe), results.base(one.round) == one.round)
                for one in evaluations
            ]
            if is_finished(recipe):
                found.final = results.base(recipe.rounds)
    except AlignError as error:
        found.why = error.faults[0].what
    if found.final is None:
        found.why = failed.get(run) or found.why or "it is not finished"
    return found


def figures_of(evaluation: Evaluation, recipe: Recipe) -> dict[str, float]:
    """An evaluation's figures by measure, those that mean the same in every run and round.

    The initial policy wins half of the time against itself. A KL to a reference that moves on is none to the one that
    the run began with, and scores that are standardised within an evaluation are none beside another's.

    Args:
        evaluation: of a round.
        recipe: of the run.
    """
    figures: dict[str, float] = {}
    if evaluation.scorer is not None:
        figures |= _wins(evaluation, evaluation.against, recipe)
    if evaluation.reward is not None and not recipe.labelers[evaluation.scorer or ""].is_relative:
        figures[REWARD] = evaluation.reward["mean"]
    if recipe.policy.reference == "initial":
        figures[KL] = float(evaluation.kl["mean"])
    figures |= {"length": evaluation.length["mean"], "eos_rate": evaluation.eos_rate}
    figures["distinct_2"] = evaluation.distinct_2
    if evaluation.preferences is not None:
        figures["pair_accuracy"] = float(evaluation.preferences["accuracy"])
    for scorer, said in (evaluation.other_scorers or {}).items():
        if wins := _wins(evaluation, said["against"], recipe):
            figures[by_scorer(scorer)] = wins[WIN]
    return figures


def _wins(evaluation: Evaluation, against: Mapping[str, Any], recipe: Recipe) -> dict[str, float]:
    """How often the policy wins against the initial one by one scorer's word; nothing where that was not asked."""
    if OPPONENT in against:
        return {name: float(against[OPPONENT][name]) for name in (WIN, CONTROLLED) if name in against[OPPONENT]}
    is_initial = evaluation.round == 0 and OPPONENT in recipe.evaluate.against
    return {WIN: 0.5, CONTROLLED: 0.5} if is_initial else {}


def by_scorer(name: str) -> str:
    """The measure of how often a policy wins by a scorer other than the one that judges."""
    return f"{WIN}.{name}"


def summarise(definition: Definition, runs: Sequence[RunFigures]) -> dict[str, Any]:
    """The study's results as plain data."""
    first = definition.combinations[0]
    by_combination = {one.name: _by_seed(one, runs) for one in definition.combinations}
    found = dict.fromkeys(name for run in runs for one in run.evaluations for name in one.figures)
    measures = [name for name in MEASURES if name in found] + [name for name in found if name not in MEASURES]
    gains = [name for name in measures if name in GAINS]
    return {
        "schema_version": SCHEMA_VERSION,
        **described(definition),
        "first": first.name,
        "measures": measures,
        "combinations": [
            _of_combination(one, by_combination[one.name], by_combination[first.name], measures, gains, one == first)
            for one in definition.combinations
        ],
        "frontiers": {name: _frontiers(definition, runs, name) for name in gains},
        "runs": [_of_run(run) for run in runs],
        "missing": [{"run": run.run.name, "why": run.why} for run in runs if run.final is None],
    }


def _by_seed(combination: Combination, runs: Sequence[RunFigures]) -> dict[int, RunFigures]:
    """Its finished runs."""
    return {run.run.seed: run for run in runs if run.run.combination == combination and run.final is not None}


def _of_combination(
    combination: Combination,
    own: Mapping[int, RunFigures],
    firsts: Mapping[int, RunFigures],
    measures: Sequence[str],
    gains: Sequence[str],
    is_first: bool,
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": combination.name,
        "settings": combination.values,
        "seeds": sorted(own),
        "figures": {
            name: mean_over_seeds(list(values.values()))._asdict()
            for name in measures
            if (values := _values(own, name))
        },
    }
    if not is_first:
        told["differences"] = {
            name: _dict(paired_difference(_values(own, name), _values(firsts, name))) for name in measures
        }
        told["at_equal_kl"] = {name: _at_equal_kl(own, firsts, name) for name in gains}
    return told


def _values(runs: Mapping[int, RunFigures], measure: str) -> dict[int, float]:
    return {seed: run.figures[measure] for seed, run in sorted(runs.items()) if measure in run.figures}


def _at_equal_kl(
    own: Mapping[int, RunFigures], firsts: Mapping[int, RunFigures], measure: str
) -> dict[str, Any] | None:
    """The paired difference where both runs of a seed first come to the largest KL that both come to."""
    levels, values, others, num_inside = {}, {}, {}, 0
    for seed in own.keys() & firsts.keys():
        path, other = own[seed].path(measure), firsts[seed].path(measure)
        level = common_kl(path, other)
        found = (None, None) if level is None else (value_at(path, level), value_at(other, level))
        if level is not None and found[0] is not None and found[1] is not None:
            levels[seed], values[seed], others[seed] = level, found[0], found[1]
            num_inside += is_inside_first_stretch(path, level) or is_inside_first_stretch(other, level)
    difference = paired_difference(values, others)
    if difference is None:
        return None
    kl = mean_over_seeds([levels[seed] for seed in sorted(levels)]).mean
    return {**difference._asdict(), "kl": kl, "num_inside_first_round": num_inside}


def _frontiers(definition: Definition, runs: Sequence[RunFigures], measure: str) -> dict[str, Any]:
    """One frontier for the combinations that differ in how the KL is held alone, at levels that all come to."""
    groups: dict[str, list[RunFigures]] = {}
    naming = group_naming(definition)
    for run in runs:
        groups.setdefault(naming(run.run.combination), []).append(run)
    whole = {name: _whole_seeds(members, measure) for name, members in groups.items()}
    levels = _levels(list(whole.values()))
    at = {name: [_best_by_seed(seeds, level) for level in levels] for name, seeds in whole.items()}
    first = next(iter(groups))
    return {
        "levels": levels,
        "groups": [
            {
                "name": name,
                "values": [_mean_dict(values) for values in at[name]],
                "differences": None
                if name == first
                else [_dict(paired_difference(*both)) for both in zip(at[name], at[first], strict=True)],
                "envelope": [list(point) for point in envelope(p for run in members for p in run.path(measure))],
            }
            for name, members in groups.items()
        ],
    }


def group_naming(definition: Definition) -> Callable[[Combination], str]:
    """The name of the frontier that a combination belongs to: its settings but for how the KL is held."""
    short = short_keys([axis.key for axis in definition.axes])
    if not any(axis.key in KL_KEYS for axis in definition.axes):
        return lambda combination: combination.name

    def name(combination: Combination) -> str:
        rest = [(short[key], called(key, value)) for key, value in combination.settings if key not in KL_KEYS]
        return name_of(rest) if rest else ALL

    return name


def _whole_seeds(members: Sequence[RunFigures], measure: str) -> dict[int, list[list[Point]]]:
    """The paths of a frontier's runs by seed, where all of the seed's runs are finished."""
    paths: dict[int, list[list[Point]]] = {}
    for run in members:
        paths.setdefault(run.run.seed, []).append(run.path(measure) if run.final is not None else [])
    return {seed: found for seed, found in sorted(paths.items()) if all(found)}


def _levels(frontiers: Sequence[Mapping[int, Sequence[Sequence[Point]]]]) -> list[float]:
    """Shares of the least KL, over frontiers, that half of a frontier's seeds come to."""
    reached = [
        median(max(point.kl for path in paths for point in path) for paths in seeds.values())
        for seeds in frontiers
        if seeds
    ]
    return [share * min(reached) for share in LEVELS] if reached and min(reached) > 0 else []


def _best_by_seed(seeds: Mapping[int, Sequence[Sequence[Point]]], level: float) -> dict[int, float]:
    found = {seed: best_of_paths(paths, level) for seed, paths in seeds.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _of_run(run: RunFigures) -> dict[str, Any]:
    return {
        "name": run.run.name,
        "combination": run.run.combination.name,
        "seed": run.run.seed,
        "final_round": run.final,
        "evaluations": [{"round": one.round, **one.figures} for one in run.evaluations],
    }


def _mean_dict(values: Mapping[int, float]) -> dict[str, Any] | None:
    return mean_over_seeds(list(values.values()))._asdict() if values else None


def _dict(found: OverSeeds | None) -> dict[str, Any] | None:
    return None if found is None else found._asdict()
