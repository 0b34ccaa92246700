"""Which round of a run is meant: the best, the last, or one by its number; and where its policy lies.

A round's policy can be had while its checkpoint is kept; the initial one also where it is the recipe's model as it is.
Reads the folder alone: a run that is at work goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from align_cli import stages
from align_cli.artifacts.records import Evaluation
from align_cli.errors import AlignError, RunError
from align_cli.models.refused import holds_model
from align_cli.run.folder import RunFolder
from align_cli.run.folder.layout import ROUNDS
from align_cli.run.plan import plan_steps
from align_cli.run.results import Results
from align_cli.stages.base import CHECKPOINT, Artifact
from align_cli.training.checkpoints import OPTIMIZER_NAME

BEST, LAST, INITIAL = "best", "last", "initial"


class Chosen(NamedTuple):
    """A round whose policy is taken.

    Args:
        round: its number; 0 is the initial policy's.
        checkpoint: verified but for the optimizer's state; None where the initial policy is the recipe's model itself.
        why: how it was chosen, in words.
        remarks: what a user should know about that, a sentence each.
    """

    round: int
    checkpoint: Path | None
    why: str
    remarks: tuple[str, ...] = ()


def open_run(path: Path) -> Results:
    """The results of the run in a folder.

    Raises:
        AlignError: if there is none, or if what it says of itself is damaged.
    """
    folder = RunFolder(path)
    if not folder.exists and not folder.set_aside.is_there:
        _refuse_no_run(path)
    return Results(folder.recipe(), folder)


def choose_round(results: Results, wanted: str | None) -> Chosen:
    """The round that is meant.

    Args:
        results: of the run.
        wanted: `best`, `last`, `initial` or a number; None is the best where rounds were compared, else the last.

    Raises:
        RunError: if the run has no such round, or no longer has its checkpoint, or if that is damaged.
    """
    there = _rounds_with_policy(results)
    if wanted == BEST or (wanted is None and _compared(results)):
        return _best(results, there)
    if wanted in (LAST, None):
        standing = [number for number in there if results.base(number) == number]
        if not standing:
            raise RunError("the run has no policy yet", where=str(results.folder.path), hint="let it finish a round")
        told = "the last" if wanted else "the last, since no evaluation compares rounds with the initial policy"
        return _taken(results, standing[-1], told)
    number = 0 if wanted == INITIAL else int(wanted or "") if (wanted or "").isdecimal() else None
    if number is None:
        raise RunError(f"the round is {wanted!r}; it must be best, last or a number", hint=_there_in_words(there))
    if number not in there:
        raise RunError(_why_missing(results, number), where=str(results.folder.path), hint=_there_in_words(there))
    base = results.base(number)
    given_up = f"a guard gave round {number} up: the run went on from the policy of round {base}"
    return _taken(results, number, "as asked for", *[given_up] * (base != number))


@contextmanager
def reading_checkpoint(results: Results, number: int) -> Iterator[None]:
    """While it lasts, a run that is at work may let a round's checkpoint go.

    Raises:
        RunError: if it did.
    """
    try:
        yield
    except (AlignError, FileNotFoundError):
        checkpoint = Artifact(number, CHECKPOINT)
        results.folder.manifests.forget()
        if results.folder.manifests.is_kept(checkpoint) or not results.holds(checkpoint):
            raise
        raise RunError(
            f"the run is at work, and let the checkpoint of round {number} go while it was read",
            where=str(results.folder.path),
            hint=_there_in_words(_rounds_with_policy(results)),
        ) from None


def _compared(results: Results) -> list[Evaluation]:
    """The evaluations that say how often a round's policy wins against the initial one."""
    return [item for item in results.evaluations() if item.round and INITIAL in item.against]


def _best(results: Results, there: Sequence[int]) -> Chosen:
    rates = {item.round: item.against[INITIAL] for item in _compared(results)}
    best = results.best_round()
    if not rates or best is None or best not in there:
        raise RunError(
            "no evaluation compares a round that can be had with the initial policy",
            where=str(results.folder.path),
            hint="say which round: --round last, or its number; evaluations compare where evaluate.scorer is set and "
            "evaluate.against holds initial",
        )
    if best == 0:
        what = "no round's policy wins more often than the initial one, which is what is taken; --round last is another"
        return _taken(results, 0, "the best by win rate against the initial policy", what)
    rate = rates[best]
    lost = [number for number in rates if number not in there]
    better = [number for number in lost if float(rates[number]["win_rate"]) > float(rate["win_rate"])]
    remarks = [f"round {number} has a higher win rate, and its checkpoint is not there" for number in better]
    interval = f"{rate['win_rate']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"
    return _taken(results, best, f"the best by win rate against the initial policy, {interval}", *remarks)


def _taken(results: Results, number: int, why: str, *remarks: str) -> Chosen:
    checkpoint = Artifact(number, CHECKPOINT)
    path = None
    if results.holds(checkpoint):
        with reading_checkpoint(results, number):
            path = results.folder.manifests.verified(checkpoint, but=(OPTIMIZER_NAME,))
    return Chosen(number, path, why, remarks)


def _rounds_with_policy(results: Results) -> list[int]:
    """The rounds whose policy can be had, in their order."""
    is_made = any(
        CHECKPOINT in stages.stage_named(step.stage).writes for step in plan_steps(results.recipe) if step.round == 0
    )
    manifests = results.folder.manifests
    initial = [0] if manifests.is_kept(Artifact(0, CHECKPOINT)) or not is_made else []
    trained = [number for number in manifests.rounds() if number and manifests.is_kept(Artifact(number, CHECKPOINT))]
    return initial + trained


def _why_missing(results: Results, number: int) -> str:
    manifests = results.folder.manifests
    if results.holds(Artifact(number, CHECKPOINT)):
        return f"the checkpoint of round {number} was let go, as checkpoints.keep says"
    is_trained = any(CHECKPOINT in stages.stage_named(stage).writes for stage in manifests.of_round(number)["stages"])
    if is_trained:
        return f"round {number} left no checkpoint, as checkpoints.every_rounds says"
    return f"the run has not finished round {number}"


def _there_in_words(there: Sequence[int]) -> str:
    if not there:
        return "the run has no policy yet; let it finish a round"
    *others, last = map(str, there)
    listed = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    return f"of its rounds {listed} there: --round {last}"


def _refuse_no_run(path: Path) -> None:
    """Say what is in the place of a run, where that is something else of align's or a model.

    Raises:
        RunError: if it is.
    """
    place = path.resolve()
    run = place.parent.parent.parent
    if place.name == CHECKPOINT and place.parent.parent.name == ROUNDS and RunFolder(run).exists:
        raise RunError(
            "this is the checkpoint of one round, not a run",
            where=str(path),
            hint=f"give the run and the round: {path.parent.parent.parent} --round {int(place.parent.name)}",
        )
    if holds_model(path):
        raise RunError("this is a model, not a run", where=str(path), hint="give the folder of a run: its output_dir")
    if path.is_file():
        raise RunError("this is a file, not a run", where=str(path), hint="give the folder of a run: its output_dir")
