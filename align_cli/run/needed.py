"""What a run reads of what is there already, and whether it is what was written: `align check` asks before it runs.

Whoever reads an artifact verifies it then. This says beforehand which those will be, by what stages declare.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from align_cli import stages
from align_cli.errors import all_at_once
from align_cli.run.folder import RunFolder
from align_cli.run.folder.lineage import Origin
from align_cli.run.folder.manifests import Manifests
from align_cli.run.plan import Step
from align_cli.run.results import Results
from align_cli.stages.base import CHECKPOINT, EVALUATION, PREFERENCES, REFERENCE_LOGPS, TRAINING, Artifact


def check_undamaged(results: Results, plan: Sequence[Step], steps: Sequence[Step]) -> None:
    """Compare what a run reads with its checksums.

    Args:
        results: of the rounds that are over.
        plan: every step.
        steps: those that are left; where none is, the evaluations are shown.

    Raises:
        AlignError: for everything that is missing or not what was written.
    """
    _verify(results.folder, [*_shown(results), *(_read_on(results, plan, steps) if steps else ())])


def check_origin_undamaged(origin: Origin) -> None:
    """Compare all that a fork takes over with its checksums.

    Raises:
        AlignError: for everything that is missing or not what was written.
    """
    source = RunFolder(origin.run)
    taken = {number: source.manifests.of_round(number)["stages"].values() for number in range(origin.round + 1)}
    outputs = ((number, name) for number, records in taken.items() for one in records for name in one["outputs"])
    _verify(source, (Artifact(number, name) for number, name in outputs))


def _verify(folder: RunFolder, artifacts: Iterable[Artifact]) -> None:
    kept = (artifact for artifact in dict.fromkeys(artifacts) if folder.manifests.is_kept(artifact))
    all_at_once(*(partial(folder.manifests.verified, artifact) for artifact in kept))


def _shown(results: Results) -> Iterator[Artifact]:
    """The evaluations, which every start shows."""
    numbers = results.folder.manifests.rounds()
    yield from (Artifact(number, EVALUATION) for number in numbers if number <= results.recipe.rounds)


def _read_on(results: Results, plan: Sequence[Step], steps: Sequence[Step]) -> Iterator[Artifact]:
    """What the steps that are left read, and whatever brings policy and reference to where they begin."""
    recipe, manifests = results.recipe, results.folder.manifests
    now = _round_of(manifests, steps)
    before = max(now - 1, 0)
    trained = now if manifests.holds(Artifact(now, TRAINING)) else before
    reference = before if recipe.policy.reference == "previous" else 0
    referred = manifests.base(reference)
    begins = _newest_kept(results, trained if results.is_kept(referred) else reference)
    passed = range(begins, trained + 1)
    again = [step for step in plan if step.round in passed and not results.is_kept(step.round) and _trains(step)]
    asked_too = {0} if recipe.method.initial_reference else set[int]()
    for number in {*passed, *map(manifests.base, passed), referred, *asked_too}:
        yield Artifact(number, CHECKPOINT)
    for step in (*again, *steps):
        yield from stages.stage_named(step.stage).reads(recipe, manifests, step.round)
        yield from stages.stage_named(step.stage).takes_over(recipe, manifests, step.round)
    yield from (Artifact(number, TRAINING) for number in {now, *(step.round for step in again)})
    yield from (Artifact(step.round, REFERENCE_LOGPS) for step in again)
    looked_at = [*results.labelled_rounds(now), *results.rewarded_rounds(_standing(results, steps))]
    yield from (Artifact(number, PREFERENCES) for number in looked_at)


def _standing(results: Results, steps: Sequence[Step]) -> list[int]:
    """The rounds that guards will have evaluations of when the first of the steps' rounds is over."""
    manifests = results.folder.manifests
    now = _round_of(manifests, steps)
    before = [number for number in manifests.rounds() if number < now and manifests.base(number) == number]
    is_due = any(step.round == now and EVALUATION in stages.stage_named(step.stage).writes for step in steps)
    return [number for number in before if manifests.holds(Artifact(number, EVALUATION))] + [now] * is_due


def _round_of(manifests: Manifests, steps: Sequence[Step]) -> int:
    """The round that is at work: the first step that is left may be ahead of it."""
    return min(step.round for step in steps if manifests.finished(step) is None)


def _newest_kept(results: Results, round_number: int) -> int:
    return max(number for number in range(round_number + 1) if results.is_kept(number))


def _trains(step: Step) -> bool:
    """Whether a step is done again where its round left no checkpoint."""
    return step.round > 0 and TRAINING in stages.stage_named(step.stage).writes
