"""Two runs side by side: what their recipes differ in, and how their policies do on the prompts that both answered.

Pairing over prompts takes out what prompts have of their own. It says nothing of seeds: two runs of different seeds
differ by luck too, and how much that is takes a study (`align study`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from align_cli.artifacts.records import Completion, Evaluation
from align_cli.artifacts.store import read_records
from align_cli.errors import RunError
from align_cli.metrics.estimates import Estimate, estimate
from align_cli.metrics.length_control import LengthControlled, length_controlled_win_rate
from align_cli.metrics.paired import Difference as RateDifference
from align_cli.metrics.paired import win_rate_difference
from align_cli.metrics.preference import WinRate, win_rate_of
from align_cli.recipe import Difference, differences, resolved
from align_cli.run.chosen import open_run
from align_cli.run.fork import parse_origin
from align_cli.run.plan import Step
from align_cli.run.results import Results
from align_cli.stages.base import SAMPLES, Artifact, asked_labelers, labeler_artifacts
from align_cli.stages.opinions import higher_wins

OPPONENT = "initial"
BOOTSTRAP_SEED = 0
LEAST_PROMPTS = 10
"""Fewer say nothing, whatever interval their few outcomes have."""
NEAR_KL, UNEQUAL = 0.1, 1.25
"""Nats below which a policy is where it began, and how many times another KL makes a comparison uneven."""
NOT_COMPARED = ("output_dir",)
"""Keys in which any two runs differ."""


class Evaluated(NamedTuple):
    """A run, and the evaluation of the round that is compared.

    Args:
        name: as the user gave it.
        results: of the run.
        evaluation: of the round.
        last: the last round that has one.
    """

    name: str
    results: Results
    evaluation: Evaluation
    last: int


@dataclass(frozen=True)
class Paired:
    """What the second run's policy does beside the first's on the same prompts.

    Args:
        num_prompts: that both answered, with a score for each.
        wins: of the second against the first, head to head.
        controlled: the same, as it would be at equal lengths.
        against_initial: how much more often the second beats its initial policy than the first does its own; None where
            one of them was not compared with that.
        reward: the second's score less the first's, over prompts.
        remarks: what a user should know of it.
    """

    num_prompts: int
    wins: WinRate
    controlled: LengthControlled
    against_initial: RateDifference | None
    reward: Estimate
    remarks: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            **asdict(self),
            "wins": {**self.wins._asdict(), "interval": list(self.wins.interval)},
            "controlled": {**self.controlled._asdict(), "interval": list(self.controlled.interval)},
            "reward": self.reward._asdict(),
            "against_initial": None
            if self.against_initial is None
            else {"difference": self.against_initial.difference, "interval": list(self.against_initial.interval)},
        }


def evaluated_run(name: str) -> Evaluated:
    """The run that `RUN` or `RUN@K` names, with the evaluation of round K; without K of the policy that it stands at.

    Raises:
        AlignError: if there is no such run, or it has no such evaluation.
    """
    path, wanted = Path(name), None
    if not path.exists() and "@" in name:
        origin = parse_origin(name)
        path, wanted = origin.run, origin.round
    results = open_run(path)
    numbers = [one.round for one in results.evaluations()]
    standing = [number for number in numbers if results.base(number) == number]
    number = wanted if wanted is not None else max(standing, default=None)
    if number is None or number not in numbers:
        which = "no evaluation" if wanted is None else f"no evaluation of round {wanted}"
        known = f"it has those of the rounds {', '.join(map(str, numbers))}" if numbers else ""
        hint = known or "runs are compared by their evaluations: data.eval_prompts, evaluate.scorer"
        raise RunError(f"the run has {which}", where=str(path), hint=hint)
    evaluation = results.evaluation(number)
    assert evaluation is not None
    return Evaluated(name, results, evaluation, max(numbers))


def recipe_differences(first: Evaluated, second: Evaluated) -> list[Difference]:
    """The keys in which the two runs' recipes differ."""
    found = differences(resolved(first.results.recipe), resolved(second.results.recipe))
    return [one for one in found if one.key not in NOT_COMPARED]


def pair(first: Evaluated, second: Evaluated) -> Paired:
    """The two policies on the prompts that both answered.

    Raises:
        RunError: where there is nothing to pair: no scorer, another scorer, scores that mean something else in each
            run, no prompt in common, or one policy twice.
    """
    scorer = _common_scorer(first, second)
    answers, others = _answers(first, first.evaluation.round), _answers(second, second.evaluation.round)
    keys, where = [key for key in answers if key in others], f"{first.name} and {second.name}"
    if len(keys) < LEAST_PROMPTS:
        raise RunError(
            f"they answered {len(keys) or 'no'} held-out prompts in common; at least {LEAST_PROMPTS} are needed",
            where=where,
            hint="compare runs with the same data.eval_prompts, and the same seed, which chooses among them",
        )
    scored = [(answers[key], others[key]) for key in keys]
    both = [pair for pair in scored if None not in (_score(pair[0], scorer), _score(pair[1], scorer))]
    if not both:
        raise RunError(
            f"{scorer} gave the responses no scores of their own, as one that compares pairs does not",
            where=where,
            hint="name a scorer that gives scores (evaluate.scorer), or compare the win rates over seeds: align study",
        )
    if len(both) < LEAST_PROMPTS:
        raise RunError(
            f"{scorer} scored both responses of {len(both)} prompts; at least {LEAST_PROMPTS} are needed",
            where=where,
            hint="align samples RUN shows what it gave",
        )
    won = [float(higher_wins(_score(theirs, scorer), _score(ours, scorer)) or 0.0) for ours, theirs in both]
    lengths = [[float(pair[side].num_tokens) for pair in both] for side in (1, 0)]
    wins = win_rate_of(won, seed=BOOTSTRAP_SEED)
    return Paired(
        len(both),
        wins,
        length_controlled_win_rate(won, *lengths, seed=BOOTSTRAP_SEED),
        _against_initial(_beats_initial(first, answers, scorer), _beats_initial(second, others, scorer)),
        estimate([(_score(theirs, scorer) or 0.0) - (_score(ours, scorer) or 0.0) for ours, theirs in both]),
        [
            _verdict(wins),
            *_at_unequal_kl(first, second),
            *_at_work(first, second),
            *_remarks(first, second, len(both)),
        ],
    )


def _common_scorer(first: Evaluated, second: Evaluated) -> str:
    where = f"{first.name} and {second.name}"
    if first.evaluation.policy == second.evaluation.policy:
        raise RunError("these are one policy", where=where, hint="name two runs, or two rounds: RUN@1 RUN@3")
    one, other = first.evaluation.scorer, second.evaluation.scorer
    if one is None or other is None:
        lacking = first.name if one is None else second.name
        raise RunError("its responses have no scorer", where=lacking, hint="name one: evaluate.scorer")
    hint = "scores are compared where one scorer gave both: evaluate.scorer"
    if one != other:
        raise RunError(f"they are scored by different scorers: {one} and {other}", where=where, hint=hint)
    ours, theirs = _made_of(first, one), _made_of(second, one)
    differing = [what for what in ours if ours[what] != theirs[what]]
    if differing:
        raise RunError(f"the two scorers named {one} differ in {differing[0]}", where=where, hint=hint)
    if first.results.recipe.labelers[one].is_relative:
        what = f"the scores of {one} mean something within one evaluation alone: it standardises them"
        raise RunError(what, where=where, hint="score by a labeler that does not, or compare over seeds: align study")
    return one


def _made_of(run: Evaluated, scorer: str) -> dict[str, Any]:
    """What decides a scorer's scores, its own and of those that it asks in its turn, as its run's manifest has it."""
    manifests, recipe = run.results.folder.manifests, run.results.recipe
    record = manifests.finished(Step(run.evaluation.round, "evaluate"))
    assert record is not None
    inputs, names = record["inputs"], asked_labelers(recipe, [scorer])
    return {
        "their keys": {name: inputs["recipe"]["labelers"][name] for name in names},
        "the files that they are made of": {
            key: found
            for key, found in inputs["files"].items()
            if any(key.startswith(f"labelers.{name}.") for name in names)
        },
        "what they were fitted to, each in its own run": [
            manifests.recorded_checksum(artifact) for artifact in labeler_artifacts(recipe, [scorer])
        ],
    }


def _answers(run: Evaluated, number: int) -> dict[str, Completion]:
    """A round's held-out responses, by the prompt, and by which of equal prompts it was."""
    found = Artifact(number, SAMPLES)
    if not run.results.holds(found):
        raise RunError(f"the run keeps no held-out responses of round {number}", where=run.name)
    counts: Counter[str] = Counter()
    answers = {}
    for sample in read_records(run.results.folder.manifests.verified(found), Completion):
        prompt = json.dumps([sample.prompt, sample.tools], sort_keys=True)
        answers[f"{counts[prompt]} {prompt}"] = sample
        counts[prompt] += 1
    return answers


def _score(sample: Completion, scorer: str) -> float | None:
    return (sample.scores or {}).get(scorer)


def _against_initial(first: dict[str, float], second: dict[str, float]) -> RateDifference | None:
    keys = [key for key in first if key in second]
    if not keys:
        return None
    return win_rate_difference([second[key] for key in keys], [first[key] for key in keys], seed=BOOTSTRAP_SEED)


def _beats_initial(run: Evaluated, answers: Mapping[str, Completion], scorer: str) -> dict[str, float]:
    """Whether a run's policy beats its initial one, by prompt; nothing where that was not asked."""
    if OPPONENT not in run.evaluation.against:
        return {}
    initial = _answers(run, 0)
    found = {
        key: higher_wins(_score(answers[key], scorer), _score(initial[key], scorer))
        for key in answers
        if key in initial
    }
    return {key: outcome for key, outcome in found.items() if outcome is not None}


def _verdict(wins: WinRate) -> str:
    low, high = wins.interval
    if low <= 0.5 <= high:
        return "the interval of wins holds one half: these prompts cannot tell the two apart"
    better = "second" if low > 0.5 else "first"
    return f"the interval of wins leaves one half out: on these prompts the {better} is better"


def _at_unequal_kl(first: Evaluated, second: Evaluated) -> list[str]:
    """A word where one policy has gone further than the other, which has to be held against what it wins."""
    kl, other = (float(run.evaluation.kl["mean"]) for run in (first, second))
    if max(kl, other) < NEAR_KL or min(kl, other) * UNEQUAL > max(kl, other):
        return []
    return [
        f"they are {kl:.2f} and {other:.2f} nats from their references; which is better at equal KL is for align study "
        "to say"
    ]


def _at_work(*runs: Evaluated) -> list[str]:
    """A word where the last round that there is so far is compared."""
    return [
        f"{run.name} is not finished: this is round {run.last} of {run.results.recipe.rounds}"
        for run in runs
        if run.evaluation.round == run.last < run.results.recipe.rounds
    ]


def _remarks(first: Evaluated, second: Evaluated, num_prompts: int) -> list[str]:
    seeds = [run.results.recipe.seed for run in (first, second)]
    remarks = []
    if seeds[0] != seeds[1]:
        remarks.append(
            f"their seeds are {seeds[0]} and {seeds[1]}: initial policies and data may differ too, and the interval "
            "holds for these two runs alone"
        )
    else:
        remarks.append(f"both have seed {seeds[0]}: the interval is over prompts; over seeds, see align study")
    most = max(run.evaluation.num_prompts for run in (first, second))
    if num_prompts < most:
        remarks.append(f"paired on the {num_prompts} of {most} held-out prompts that both answered")
    return remarks
