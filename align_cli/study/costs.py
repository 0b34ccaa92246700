"""What a study's runs took, by stage: time, sampled tokens, questions to labelers.

Read from the runs' ledgers. What runs share, round 0, is counted once, with the run that made it; the time of a process
that was killed is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from align_cli import stages
from align_cli.recipe import Recipe
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step, plan_steps
from align_cli.stages.evaluate import evaluation_questions
from align_cli.stages.label import label_questions
from align_cli.study.definition import Definition
from align_cli.study.folder import StudyFolder
from align_cli.study.results import RunFigures

SHARED = "round 0, once for each seed"


class Cost(NamedTuple):
    """What a stage took.

    Args:
        seconds: of wall clock.
        tokens: that were sampled.
        questions: to labelers and scorers, of a response or of a pair, as they give scores or verdicts.
    """

    seconds: float = 0.0
    tokens: int = 0
    questions: int = 0

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(self.seconds + other.seconds, self.tokens + other.tokens, self.questions + other.questions)


def costs_of_study(definition: Definition, folder: StudyFolder, runs: Sequence[RunFigures]) -> dict[str, Any]:
    """The costs of finished runs by combination and stage, each the mean of a run; and of what they share."""
    own: dict[str, dict[str, list[Cost]]] = {one.name: {} for one in definition.combinations}
    shared: dict[str, list[Cost]] = {}
    for run in runs:
        if run.final is None:
            continue
        recipe = definition.recipe_of(run.run, folder.run(run.run))
        later, initial = costs_by_stage(RunFolder(recipe.output_dir).ledger.events(), recipe)
        for stage, cost in later.items():
            own[run.run.combination.name].setdefault(stage, []).append(cost)
        for stage, cost in initial.items():
            shared.setdefault(stage, []).append(cost)
    return {
        "combinations": {name: _means(stages) for name, stages in own.items()},
        "shared": {stage: {**_mean(costs), "times": len(costs)} for stage, costs in shared.items()},
    }


def costs_by_stage(events: Sequence[Mapping[str, Any]], recipe: Recipe) -> tuple[dict[str, Cost], dict[str, Cost]]:
    """A run's costs by stage: of its rounds from 1 on, and of round 0."""
    planned = set(plan_steps(recipe))
    known = {Step(event["round"], event["stage"]): event for event in events if event["event"] == "finish"}
    steps = {step: event for step, event in known.items() if step in planned}
    later: dict[str, Cost] = {}
    initial: dict[str, Cost] = {}
    sampled = {number: _count(event, "completions") for (number, stage), event in steps.items() if stage == "generate"}
    order = [stage.name for stage in stages.STAGES]
    for (number, stage), event in sorted(steps.items(), key=lambda one: order.index(one[0].stage)):
        into = later if number else initial
        into[stage] = into.get(stage, Cost()).plus(_cost(stage, event, sampled.get(number, 0), recipe))
    return later, initial


def _cost(stage: str, event: Mapping[str, Any], num_completions: int, recipe: Recipe) -> Cost:
    seconds = float(event["seconds"])
    if stage == "generate":
        return Cost(seconds, tokens=_count(event, "tokens"))
    if stage == "label":
        return Cost(seconds, questions=sum(label_questions(recipe, num_completions).values()))
    if stage == "evaluate":
        num_prompts = _count(event, "num_prompts")
        mean = _part(event, "length").get("mean", 0.0)
        opponents = {str(one.get("policy")) for one in _part(event, "against").values() if isinstance(one, dict)}
        questions = evaluation_questions(recipe, num_prompts, len(opponents))
        return Cost(seconds, round(num_prompts * mean), sum(questions.values()))
    return Cost(seconds)


def _figures(event: Mapping[str, Any]) -> dict[str, Any]:
    """What a ledger's event says of a step's results; people may have edited it."""
    found = event.get("figures")
    return found if isinstance(found, dict) else {}


def _part(event: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = _figures(event).get(name)
    return found if isinstance(found, dict) else {}


def _count(event: Mapping[str, Any], name: str) -> int:
    found = _figures(event).get(name)
    return found if isinstance(found, int) else 0


def _means(stages: Mapping[str, Sequence[Cost]]) -> dict[str, dict[str, float]]:
    return {stage: _mean(costs) for stage, costs in stages.items()}


def _mean(costs: Sequence[Cost]) -> dict[str, float]:
    total = Cost()
    for cost in costs:
        total = total.plus(cost)
    return {name: round(value / len(costs), 3) for name, value in total._asdict().items()}
